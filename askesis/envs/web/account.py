"""An account: signing in, and settings on several pages, of which only some are to be changed."""

from __future__ import annotations

import random
from typing import Any

from starlette.responses import Response

from askesis.envs.web.drawing import FIRST, Drawn, Step, company, email, hue, listed, person
from askesis.envs.web.serving import Form, Site

LANGUAGES = ("English", "German", "French", "Spanish")
ZONES = ("UTC-5", "UTC", "UTC+1", "UTC+8")
FREQUENCIES = ("Daily", "Weekly", "Never")
SWITCHES = {"mentions": "Mentions", "news": "Product news", "reminders": "Reminders"}
_PAGES = {
    "/profile": ("display", "language", "zone"),
    "/notifications": ("frequency", *SWITCHES),
}
LABELS = {
    "display": "Display name",
    "language": "Language",
    "zone": "Time zone",
    "frequency": "Summary",
    "email": "E-mail",
} | SWITCHES
_CHOICES = {"language": LANGUAGES, "zone": ZONES, "frequency": FREQUENCIES}


class Account(Site):
    """Level 1 changes one setting, 2 some on both pages; at 3 the e-mail address too, which asks for the password and
    then for a code that arrives in the inbox."""

    host = "team.test"
    links = (("Home", "/"), ("Profile", "/profile"), ("Notifications", "/notifications"), ("Security", "/security"))

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.settings: dict[str, str] = dict(content["settings"])
        self.inside = False
        self.pending = ""  # an address that is not confirmed

    def state(self) -> Any:
        """The settings."""
        return self.settings

    def get(self, path: str, query: Form) -> Response:
        if path == "/signin":
            return self._sign_in("")
        if not self.inside:
            return self.sent_to("/signin", "Sign in first.")
        if path == "/":
            return self.page("message.html.jinja", title=f"Hello {self.settings['display']}", text="All is quiet.")
        if path in _PAGES:
            return self._settings(path, [])
        if path == "/security":
            return self._security("")
        if path == "/inbox":
            code = self.content["code"] if self.pending else ""
            return self.page("account_inbox.html.jinja", code=code)
        return self.missing()

    def post(self, path: str, form: Form) -> Response:
        if path == "/signin":
            known = (form.text("user"), form.text("password")) == (self.content["user"], self.content["password"])
            self.inside = self.inside or known
            return self.sent_to("/", "You are signed in.") if known else self._sign_in("User or password is wrong.")
        if not self.inside:
            return self.sent_to("/signin", "Sign in first.")
        if path in _PAGES:
            return self._save(path, form)
        if path == "/security":
            if form.text("password") != self.content["password"]:
                return self._security("The password is wrong.")
            if "@" not in form.text("email"):
                return self._security("That is no e-mail address.")
            self.pending = form.text("email")
            return self.sent_to("/security", "We have sent a code to your inbox.")
        if path == "/security/confirm" and self.pending:
            if form.text("code") != self.content["code"]:
                return self._security("The code is wrong.")
            self.settings["email"], self.pending = self.pending, ""
            return self.sent_to("/security", "Your address was changed.")
        return self.missing()

    def _sign_in(self, error: str) -> Response:
        return self.page("account_signin.html.jinja", error=error)

    def _security(self, error: str) -> Response:
        values = {"email": self.settings["email"], "pending": self.pending, "error": error}
        return self.page("account_security.html.jinja", **values)

    def _settings(self, path: str, errors: list[str]) -> Response:
        return self.page(
            "account_settings.html.jinja",
            path=path,
            names=_PAGES[path],
            labels=LABELS,
            choices=_CHOICES,
            switches=SWITCHES,
            settings=self.settings,
            errors=errors,
        )

    def _save(self, path: str, form: Form) -> Response:
        given = {name: "yes" if form.text(name) else "" for name in _PAGES[path] if name in SWITCHES}
        given |= {name: form.text(name) for name in _PAGES[path] if name not in SWITCHES}
        wrong = [
            f"Choose a {LABELS[name].lower()}."
            for name in given
            if given[name] not in _CHOICES.get(name, (given[name],))
        ]
        if given.get("display") == "":
            wrong.append("Display name is missing.")
        if wrong:
            return self._settings(path, wrong)
        self.settings |= given
        return self.sent_to(path, "Your settings were saved.")


def account(rng: random.Random, level: int) -> Drawn:
    """Settings to be changed."""
    name, brand = person(rng), company(rng)
    settings = {
        "display": name,
        "language": rng.choice(LANGUAGES),
        "zone": rng.choice(ZONES),
        "frequency": rng.choice(FREQUENCIES),
        "email": email(rng, name),
    } | {switch: rng.choice(("yes", "")) for switch in SWITCHES}
    fields = {1: 1, 2: 3, 3: 3}[level]
    changed = rng.sample([*_PAGES["/profile"], *_PAGES["/notifications"]], fields)
    if level > 1:  # something on both pages
        changed = [rng.choice(_PAGES["/profile"]), *rng.sample(_PAGES["/notifications"], 2)]
    new: dict[str, str] = {}
    told = []
    for field in changed:
        if field in SWITCHES:
            new[field] = "" if settings[field] else "yes"
            told.append(f"turn {LABELS[field].lower()} {'on' if new[field] else 'off'}")
        elif field == "display":
            new[field] = f"{rng.choice(FIRST)} {rng.choice('ABCDEFGH')}."
            told.append(f"set the display name to {new[field]!r}")
        else:
            new[field] = rng.choice([one for one in _CHOICES[field] if one != settings[field]])
            told.append(f"set the {LABELS[field].lower()} to {new[field]}")
    password = f"{rng.choice('bdfgklmnprst')}{rng.choice('aeiou')}{rng.randint(1000, 9999)}"
    user = name.split()[0].lower() + str(rng.randint(1, 99))
    steps = _signing_in(user, password)
    for path, names in _PAGES.items():
        here = [field for field in changed if field in names]
        if here:
            steps.append(("click", f'link "{path.removeprefix("/").capitalize()}"'))
            steps += [_setting(field, new[field]) for field in here]
            steps.append(("click", 'button "Save"'))
    code = f"{rng.randint(0, 999_999):06}"
    if level == 3:
        new["email"] = email(rng, person(rng))
        told.append(f"change the e-mail address to {new['email']} (a code comes to the inbox, /inbox)")
        steps += _changing_address(new["email"], password, code)
    content = {
        "site": "account",
        "level": level,
        "brand": brand,
        "hue": hue(rng),
        "user": user,
        "password": password,
        "code": code,
        "settings": settings,
    }
    prompt = (
        f"Sign in at http://{Account.host}/ as {user} with the password {password}, then {listed(told)}. "
        "Leave all other settings as they are."
    )
    check = {"kind": "state", "want": settings | new}
    return Drawn(prompt=prompt, content=content, check=check, solution=[*steps, ("submit",)])


def _signing_in(user: str, password: str) -> list[Step]:
    return [
        ("open", f"http://{Account.host}/"),
        ("type", 'textbox "User"', user),
        ("type", 'textbox "Password"', password),
        ("click", 'button "Sign in"'),
    ]


def _setting(field: str, value: str) -> Step:
    if field in SWITCHES:
        return ("click", f'checkbox "{LABELS[field]}"')
    if field == "display":
        return ("type", f'textbox "{LABELS[field]}"', value)
    return ("select", f'combobox "{LABELS[field]}"', value)


def _changing_address(address: str, password: str, code: str) -> list[Step]:
    return [
        ("click", 'link "Security"'),
        ("type", 'textbox "New e-mail"', address),
        ("type", 'textbox "Password"', password),
        ("click", 'button "Change"'),
        ("open", f"http://{Account.host}/inbox"),
        ("click", 'link "Security"'),
        ("type", 'textbox "Code"', code),
        ("click", 'button "Confirm"'),
    ]
