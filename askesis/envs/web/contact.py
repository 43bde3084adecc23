"""A form: what a letter says is put into it, in the form in which it wants it."""

from __future__ import annotations

import random
import re
from typing import Any

from starlette.responses import Response

from askesis.envs.web.drawing import (
    CITIES,
    MONTHS,
    STREETS,
    Drawn,
    Step,
    company,
    email,
    hue,
    person,
    things,
)
from askesis.envs.web.serving import MOST_RECORDS, Form, Site

TOPICS = ("Delivery", "Invoice", "Repair", "Return")
PRIORITIES = ("Low", "Normal", "High")
_DATE = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
_PHONE = re.compile(r"\+\d{2}-\d{3}-\d{4}")
_ORDER = re.compile(r"[A-Z]{2}-\d{4}")


class Contact(Site):
    """Level 1 has one page; 2 asks for more, and checks it; at 3 the topic decides what is asked for, and what was
    entered is shown before it is sent."""

    host = "help.test"
    links = (("Home", "/"), ("Contact", "/contact"))

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.level = int(content["level"])
        self.messages: list[dict[str, str]] = []

    def state(self) -> Any:
        """The messages that were sent."""
        return self.messages

    def get(self, path: str, query: Form) -> Response:
        if path == "/":
            text = "Questions about an order? Write to us with the contact form."
            return self.page("message.html.jinja", title="Welcome", text=text)
        if path == "/contact" and self.level == 3:
            topic = query.text("topic")
            if topic not in TOPICS:
                return self.page("contact_topic.html.jinja", topics=TOPICS)
            return self._form({"topic": topic}, [])
        return self._form({}, []) if path == "/contact" else self.missing()

    def post(self, path: str, form: Form) -> Response:
        if path != "/contact":
            return self.missing()
        values = {name: form.text(name) for name in self.names(form.text("topic"))}
        errors = self._errors(values)
        if errors or form.text("do") == "Change":
            return self._form(values, errors)
        if self.level == 3 and form.text("do") != "Send":
            return self.page("contact_review.html.jinja", values=values, named=LABELS)
        if len(self.messages) < MOST_RECORDS:
            self.messages.append(values)
        return self.sent_to("/", "Your message was sent.")

    def names(self, topic: str) -> tuple[str, ...]:
        """The fields of the form."""
        base = ("name", "email", "topic", "message", "news")
        if self.level == 1:
            return base
        more = ("phone", "date", "priority")
        return (*base, *more) if self.level == 2 else (*base, *more, *EXTRA.get(topic, ()))

    def _form(self, values: dict[str, str], errors: list[str]) -> Response:
        topic = values.get("topic", "")
        shown = dict.fromkeys(self.names(topic), "") | values
        return self.page(
            "contact_form.html.jinja",
            level=self.level,
            values=shown,
            errors=errors,
            topics=TOPICS,
            priorities=PRIORITIES,
            extra=EXTRA.get(topic, ()) if self.level == 3 else (),
            named=LABELS,
        )

    def _errors(self, values: dict[str, str]) -> list[str]:
        found = []
        if not values["name"]:
            found.append("Name is missing.")
        if not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", values["email"]):
            found.append("E-mail is not an address.")
        if values["topic"] not in TOPICS:
            found.append("Choose a topic.")
        if not values["message"]:
            found.append("Message is missing.")
        if "phone" in values and not _PHONE.fullmatch(values["phone"]):
            found.append("Phone must look like +49-123-4567.")
        if "date" in values and not _DATE.fullmatch(values["date"]):
            found.append("Date must look like 2024-02-29.")
        if "priority" in values and values["priority"] not in PRIORITIES:
            found.append("Choose a priority.")
        if "order" in values and not _ORDER.fullmatch(values["order"]):
            found.append("Order number must look like AB-1234.")
        found += [f"{LABELS[name]} is missing." for name in ("street", "city", "product") if values.get(name) == ""]
        return found


LABELS = {
    "name": "Name",
    "email": "E-mail",
    "topic": "Topic",
    "message": "Message",
    "news": "Newsletter",
    "phone": "Phone",
    "date": "Date",
    "priority": "Priority",
    "order": "Order number",
    "street": "Street",
    "city": "City",
    "product": "Product",
}
EXTRA = {
    "Delivery": ("order", "street", "city"),
    "Invoice": ("order",),
    "Repair": ("product",),
    "Return": ("order", "product"),
}
_MESSAGES = (
    "The {thing} arrived with a crack in it.",
    "Please tell me when the {thing} will be here.",
    "I was charged twice for the {thing}.",
    "The {thing} is not the one that I wanted.",
    "A part of the {thing} is missing.",
)


def contact(rng: random.Random, level: int) -> Drawn:
    """A message to be sent."""
    brand, name, thing = company(rng), person(rng), things(rng, 1)[0]
    topic, news = rng.choice(TOPICS), rng.random() < 0.5
    message = rng.choice(_MESSAGES).format(thing=thing)
    wanted = {
        "name": name,
        "email": email(rng, name),
        "topic": topic,
        "message": message,
        "news": "yes" if news else "",
    }
    told = [
        f"from {name} ({wanted['email']})",
        f"topic {topic}",
        f"with{'' if news else 'out'} the newsletter",
    ]
    if level > 1:
        year, month, day = rng.randint(2023, 2027), rng.randint(1, 12), rng.randint(1, 28)
        digits = "".join(str(rng.randint(0, 9)) for _ in range(7))
        country = rng.randint(20, 98)
        wanted |= {
            "phone": f"+{country}-{digits[:3]}-{digits[3:]}",
            "date": f"{year}-{month:02}-{day:02}",
            "priority": rng.choice(PRIORITIES),
        }
        told += [
            f"phone 00{country} {digits[:3]} {digits[3:]}",
            f"about the {day} {MONTHS[month - 1]} {year}",
            f"{wanted['priority'].lower()} priority",
        ]
    if level == 3:
        more = {
            "order": f"{''.join(rng.sample('ABCDEFGHKLMNPRSTVWXYZ', 2))}-{rng.randint(1000, 9999)}",
            "street": f"{rng.randint(2, 99)} {rng.choice(STREETS)}",
            "city": rng.choice(CITIES),
            "product": thing,
        }
        phrases = {
            "order": f"order {more['order'].lower().replace('-', ' ')}",
            "street": f"to {more['street']}, {more['city']}",
            "product": f"the product is the {thing}",
        }
        wanted |= {key: more[key] for key in EXTRA[topic]}
        told += [phrases[key] for key in EXTRA[topic] if key in phrases]
    rng.shuffle(told)
    prompt = (
        f"Send one message to {brand} with the contact form at http://{Contact.host}/contact: {'; '.join(told)}. "
        f'The message is: "{message}"'
    )
    content = {"site": "contact", "level": level, "brand": brand, "hue": hue(rng)}
    return Drawn(
        prompt=prompt,
        content=content,
        check={"kind": "state", "want": [wanted]},
        solution=_solution(wanted, level),
    )


def _solution(wanted: dict[str, str], level: int) -> list[Step]:
    steps: list[Step] = [("open", f"http://{Contact.host}/contact")]
    if level == 3:
        steps += [("select", 'combobox "Topic"', wanted["topic"]), ("click", 'button "Continue"')]
    for name, value in wanted.items():
        if name == "topic":
            steps += [] if level == 3 else [("select", 'combobox "Topic"', value)]
        elif name == "priority":
            steps.append(("click", f'radio "{value}"'))
        elif name == "news":
            steps += [("click", 'checkbox "Newsletter"')] if value else []
        else:
            steps.append(("type", f'textbox "{LABELS[name]}', value))
    steps.append(("click", 'button "Review"' if level == 3 else 'button "Send"'))
    if level == 3:
        steps.append(("click", 'button "Send"'))
    return [*steps, ("submit",)]
