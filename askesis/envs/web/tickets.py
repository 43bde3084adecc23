"""Tickets: rows of a table that are found by filters, and changed one by one or several at a time."""

from __future__ import annotations

import random
from typing import Any

from starlette.responses import Response

from askesis.envs.web.drawing import FIRST, Drawn, Step, company, hue, listed, person, things
from askesis.envs.web.serving import Form, Site, number

STATUSES = ("Open", "Waiting", "Closed")
PRIORITIES = ("Low", "Normal", "Urgent")
EACH = 8
_SUBJECTS = ("No {}", "Broken {}", "Wrong {}", "Late {}", "Price of the {}")
_FIELDS = ("status", "priority", "assignee")


class Tickets(Site):
    """Level 1 changes one that is told by its number, 2 one that has to be found, two fields of it; 3 closes several,
    for which the page asks whether it is meant."""

    host = "desk.test"
    links = (("Tickets", "/"), ("People", "/people"))

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.people: list[str] = content["people"]
        self.tickets = {int(one["id"]): dict(one) for one in content["tickets"]}

    def state(self) -> Any:
        """What can be changed of each ticket, by its number."""
        return {str(id): [one[field] for field in _FIELDS] for id, one in self.tickets.items()}

    def get(self, path: str, query: Form) -> Response:
        if path == "/":
            return self._table(query)
        if path == "/people":
            return self.page("message.html.jinja", title="People", text=listed(self.people))
        ticket = self._found(path)
        return self.missing() if ticket is None else self._ticket(ticket, "")

    def post(self, path: str, form: Form) -> Response:
        if path == "/close":
            chosen = {number(one, 1, 10**6) for one in form.all("ticket")}
            for id in chosen & self.tickets.keys():
                self.tickets[id or 0]["status"] = "Closed"
            return self.sent_to("/", f"Closed: {len(chosen & self.tickets.keys())}.")
        ticket = self._found(path)
        if ticket is None:
            return self.missing()
        allowed = {"status": STATUSES, "priority": PRIORITIES, "assignee": self.people}
        if any(form.text(field) not in allowed[field] for field in _FIELDS):
            return self._ticket(ticket, "Choose one of what there is.")
        ticket |= {field: form.text(field) for field in _FIELDS}
        return self.sent_to(f"/ticket/{ticket['id']}", "The ticket was saved.")

    def _found(self, path: str) -> dict[str, Any] | None:
        id = number(path.removeprefix("/ticket/"), 1, 10**6) if path.startswith("/ticket/") else None
        return self.tickets.get(id or 0)

    def _ticket(self, ticket: dict[str, Any], error: str) -> Response:
        return self.page(
            "ticket.html.jinja",
            ticket=ticket,
            error=error,
            statuses=STATUSES,
            priorities=PRIORITIES,
            people=self.people,
        )

    def _table(self, query: Form) -> Response:
        status, customer = query.text("status"), query.text("customer").lower()
        rows = [
            one
            for one in self.tickets.values()
            if status in ("", one["status"]) and customer in one["customer"].lower()
        ]
        pages = max(1, -(-len(rows) // EACH))
        page = number(query.text("page"), 1, pages) or 1
        return self.page(
            "tickets.html.jinja",
            rows=rows[(page - 1) * EACH : page * EACH],
            status=status if status in STATUSES else "",
            statuses=STATUSES,
            customer=query.text("customer"),
            page=page,
            pages=pages,
            bulk=self.content["level"] == 3,
        )


def tickets(rng: random.Random, level: int) -> Drawn:
    """Tickets to be changed."""
    people = rng.sample(FIRST, 5)
    customers = [person(rng) for _ in range(6)]
    count = {1: 7, 2: 22, 3: 26}[level]
    numbers = rng.sample(range(1000, 9999), count)
    rows: list[dict[str, Any]] = [
        {
            "id": id,
            "customer": rng.choice(customers),
            "subject": rng.choice(_SUBJECTS).format(thing),
            "status": rng.choice(STATUSES),
            "priority": rng.choice(PRIORITIES),
            "assignee": rng.choice(people),
            "days": rng.randint(0, 60),
        }
        for id, thing in zip(numbers, things(rng, count), strict=True)
    ]
    site = f"http://{Tickets.host}/"
    if level == 3:
        prompt, closed, steps = _closing(rng, rows, customers)
        changes: dict[int, dict[str, str]] = {id: {"status": "Closed"} for id in closed}
    else:
        ticket = rng.choice(rows)
        fields = rng.sample(_FIELDS, level)
        options = {"status": STATUSES, "priority": PRIORITIES, "assignee": people}
        new = {field: rng.choice([one for one in options[field] if one != ticket[field]]) for field in fields}
        told = listed([f"the {field} to {value}" for field, value in new.items()])
        which = f"ticket {ticket['id']}" if level == 1 else f"{ticket['customer']}'s ticket {ticket['subject']!r}"
        prompt = f"Set {told} in {which} at {site}."
        changes = {int(ticket["id"]): new}
        steps = _finding(rows, ticket, level)
        steps += [("select", f'combobox "{field.capitalize()}"', value) for field, value in new.items()]
        steps.append(("click", 'button "Save"'))
    want = {str(row["id"]): [(row | changes.get(int(row["id"]), {}))[field] for field in _FIELDS] for row in rows}
    content = {
        "site": "tickets",
        "level": level,
        "brand": f"{company(rng)} desk",
        "hue": hue(rng),
        "people": people,
        "tickets": rows,
    }
    solution = [("open", site), *steps, ("submit",)]
    return Drawn(prompt=prompt, content=content, check={"kind": "state", "want": want}, solution=solution)


def _finding(rows: list[dict[str, Any]], ticket: dict[str, Any], level: int) -> list[Step]:
    steps: list[Step] = []
    shown = rows
    if level > 1:
        shown = [row for row in rows if row["customer"] == ticket["customer"]]
        steps += [("type", 'textbox "Customer"', ticket["customer"]), ("click", 'button "Filter"')]
    steps += [("click", 'link "Next page"')] * (shown.index(ticket) // EACH)
    return [*steps, ("click", f'link "{ticket["id"]}"')]


def _closing(rng: random.Random, rows: list[dict[str, Any]], customers: list[str]) -> tuple[str, list[int], list[Step]]:
    """Close a customer's old open tickets: at least two, with others of the same customer that stay as they are."""
    customer, days = rng.choice(customers), rng.randint(15, 40)
    theirs = rng.sample(rows, 5)
    for at, row in enumerate(theirs):
        row["customer"] = customer
        row["status"] = "Open" if at < 4 else "Waiting"
        row["days"] = rng.randint(days + 1, 60) if at < 2 else rng.randint(0, days) if at < 4 else 60
    chosen = [r for r in rows if r["customer"] == customer and r["status"] == "Open" and r["days"] > days]
    shown = [row for row in rows if row["customer"] == customer and row["status"] == "Open"]
    steps: list[Step] = []
    for at in range(0, len(shown), EACH):
        here = [row for row in shown[at : at + EACH] if row in chosen]
        if not here:
            continue
        steps += [("open", f"http://{Tickets.host}/")]
        steps += [("type", 'textbox "Customer"', customer), ("select", 'combobox "Status"', "Open")]
        steps += [("click", 'button "Filter"'), *[("click", 'link "Next page"')] * (at // EACH)]
        steps += [("click", f'checkbox "Choose {row["id"]}"') for row in here]
        steps += [("click", 'button "Close the chosen"'), ("dialog", "yes")]
        break  # those of the first page; what comes after is no longer where it was
    rest = [row for row in chosen if row not in shown[:EACH]]
    for row in rest:
        steps += [("open", f"http://{Tickets.host}/ticket/{row['id']}")]
        steps += [("select", 'combobox "Status"', "Closed"), ("click", 'button "Save"')]
    prompt = (
        f"Close all open tickets of {customer} that are more than {days} days old, at http://{Tickets.host}/. "
        "Change nothing else."
    )
    return prompt, [int(row["id"]) for row in chosen], steps
