"""A shop: things are found, put into a cart and ordered in a few steps."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from askesis.envs.web.drawing import CITIES, COLOURS, STREETS, Drawn, Step, company, hue, listed, person, things
from askesis.envs.web.serving import MOST_RECORDS, Form, Site, number

DELIVERIES = ("Standard", "Express", "Pick-up")
MOST_OF_ONE = 20
_STEPS = ("/checkout", "/checkout/delivery", "/checkout/review")


class Shop(Site):
    """Level 1 orders one thing; 2 things in colours, with a way of delivery; at 3 there is something in the cart that
    should not be, a coupon, and names that are told by price."""

    host = "shop.test"
    links = (("Products", "/"), ("Cart", "/cart"))

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.level = int(content["level"])
        self.products: list[Mapping[str, Any]] = content["products"]
        self.cart: dict[tuple[int, str], int] = {(place, colour): n for place, colour, n in content["cart"]}
        self.coupon = ""
        self.address: dict[str, str] = {}
        self.delivery = ""
        self.orders: list[dict[str, Any]] = []

    def state(self) -> Any:
        """What was ordered."""
        return self.orders

    def get(self, path: str, query: Form) -> Response:
        if path == "/":
            wanted = query.text("find").lower()
            found = [(at, one) for at, one in enumerate(self.products, 1) if wanted in one["name"]]
            return self.page("shop.html.jinja", found=found, wanted=wanted)
        if path.startswith("/product/"):
            place = number(path.removeprefix("/product/"), 1, len(self.products))
            return self.missing() if place is None else self._product(place, "")
        if path == "/cart":
            return self.page(
                "shop_cart.html.jinja", lines=self._lines(), level=self.level, coupon=self.coupon, error=""
            )
        if path in _STEPS:
            return self._step(path, [])
        return self.missing()

    def post(self, path: str, form: Form) -> Response:
        place = number(form.text("place"), 1, len(self.products))
        if path == "/cart/add" and place is not None:
            return self._add(place, form)
        if path == "/cart/remove" and place is not None:
            self.cart.pop((place, form.text("colour")), None)
            return self.sent_to("/cart", "Removed.")
        if path == "/cart/coupon":
            if form.text("code").upper() != self.content["coupon"]:
                return self._cart("There is no such coupon.")
            self.coupon = self.content["coupon"]
            return self.sent_to("/cart", "The coupon was applied.")
        return self._checkout(path, form) if path in _STEPS else self.missing()

    def _product(self, place: int, error: str) -> Response:
        product = self.products[place - 1]
        return self.page("shop_product.html.jinja", place=place, product=product, error=error)

    def _cart(self, error: str) -> Response:
        values: dict[str, Any] = {"lines": self._lines(), "level": self.level, "coupon": self.coupon, "error": error}
        return self.page("shop_cart.html.jinja", **values)

    def _lines(self) -> list[dict[str, Any]]:
        return [
            {"place": place, "colour": colour, "count": count, "name": self.products[place - 1]["name"]}
            for (place, colour), count in self.cart.items()
        ]

    def _add(self, place: int, form: Form) -> Response:
        colours = self.products[place - 1]["colours"]
        count, colour = number(form.text("count"), 1, MOST_OF_ONE), form.text("colour")
        if count is None:
            return self._product(place, f"Quantity must be a number from 1 to {MOST_OF_ONE}.")
        if (colours and colour not in colours) or (not colours and colour):
            return self._product(place, "Choose a colour.")
        key = (place, colour)
        if key not in self.cart and len(self.cart) >= MOST_RECORDS:
            return self._product(place, "The cart is full.")
        self.cart[key] = min(99, self.cart.get(key, 0) + count)
        return self.sent_to("/cart", "Added to the cart.")

    def _step(self, path: str, errors: list[str]) -> Response:
        if not self.cart:
            return self.sent_to("/cart", "The cart is empty.")
        at = _STEPS.index(path)
        if at > 0 and not self.address:
            return self.sent_to(_STEPS[0], "Fill in the address first.")
        if at > 1 and self.level > 1 and not self.delivery:
            return self.sent_to(_STEPS[1], "Choose a delivery first.")
        return self.page(
            "shop_checkout.html.jinja",
            step=("address", "delivery", "review")[at],
            errors=errors,
            address={"name": "", "street": "", "city": ""} | self.address,
            deliveries=DELIVERIES,
            delivery=self.delivery,
            lines=self._lines(),
            coupon=self.coupon,
            level=self.level,
        )

    def _checkout(self, path: str, form: Form) -> Response:
        if path == "/checkout":
            given = {name: form.text(name) for name in ("name", "street", "city")}
            missing = [f"{name.capitalize()} is missing." for name, value in given.items() if not value]
            self.address = {} if missing else given
            after = _STEPS[2] if self.level == 1 else _STEPS[1]
            return self._step(path, missing) if missing else self.sent_to(after)
        if path == "/checkout/delivery":
            if form.text("delivery") not in DELIVERIES:
                return self._step(path, ["Choose a delivery."])
            self.delivery = form.text("delivery")
            return self.sent_to(_STEPS[2])
        if not self.cart or not self.address or (self.level > 1 and not self.delivery):
            return self._step(path, [])
        items = sorted([line["name"], line["colour"], line["count"]] for line in self._lines())
        if len(self.orders) < MOST_RECORDS:
            self.orders.append(
                {"items": items, "address": self.address, "delivery": self.delivery, "coupon": self.coupon}
            )
        self.cart, self.coupon, self.address, self.delivery = {}, "", {}, ""
        return self.sent_to("/", "Thank you for your order.")


def shop(rng: random.Random, level: int) -> Drawn:
    """An order."""
    count = {1: 6, 2: 8, 3: 12}[level]
    prices = rng.sample(range(3, 90), count)
    products: list[dict[str, Any]] = [
        {"name": name, "price": f"{price}.00", "colours": rng.sample(COLOURS, 3) if level > 1 else []}
        for name, price in zip(things(rng, count), prices, strict=True)
    ]
    chosen = rng.sample(range(count), {1: 1, 2: 2, 3: 2}[level])
    lines = [(at, rng.choice(products[at]["colours"]) if level > 1 else "", rng.randint(2, 6)) for at in chosen]
    told = [_told(n, colour, products[at]["name"]) for at, colour, n in lines]
    cart: list[list[Any]] = []
    first: list[Step] = []
    if level == 3:
        others = [at for at in range(count) if at not in chosen]
        unwanted, pair = others[0], [chosen[0], others[1]]
        cart = [[unwanted + 1, products[unwanted]["colours"][0], rng.randint(1, 3)]]
        rng.shuffle(pair)
        which = "cheaper" if prices[chosen[0]] < prices[others[1]] else "dearer"
        # The cheaper (or dearer) of the two must have the colour, whichever it is taken for.
        products[others[1]]["colours"] = products[chosen[0]]["colours"]
        names = " and the ".join(products[at]["name"] for at in pair)
        told[0] = f"{lines[0][2]} in {lines[0][1]} of the {which} one of the {names}"
        first = [
            ("open", f"http://{Shop.host}/cart"),
            ("click", f'button "Remove {products[unwanted]["name"]}"'),
        ]
    name, brand = person(rng), company(rng)
    address = {"name": name, "street": f"{rng.randint(2, 99)} {rng.choice(STREETS)}", "city": rng.choice(CITIES)}
    delivery = rng.choice(DELIVERIES) if level > 1 else ""
    coupon = f"SAVE{rng.randint(10, 99)}" if level == 3 else ""
    prompt = f"Order {listed(told)} at http://{Shop.host}/ for {name}, {address['street']}, {address['city']}"
    prompt += f", with {delivery.lower()} delivery" if delivery else ""
    prompt += f" and the coupon {coupon}" if coupon else ""
    prompt += ". Nothing else may be in the order." if level == 3 else "."
    wanted = {
        "items": sorted([products[at]["name"], colour, n] for at, colour, n in lines),
        "address": address,
        "delivery": delivery,
        "coupon": coupon,
    }
    steps = [*first, *_buying(products, lines)]
    if coupon:
        steps += [("type", 'textbox "Coupon"', coupon), ("click", 'button "Apply"')]
    steps.append(("click", 'link "Checkout"'))
    steps += [("type", f'textbox "{label.capitalize()}"', value) for label, value in address.items()]
    steps.append(("click", 'button "Continue"'))
    if delivery:
        steps += [("click", f'radio "{delivery}"'), ("click", 'button "Continue"')]
    steps += [("click", 'button "Place the order"'), ("submit",)]
    content = {
        "site": "shop",
        "level": level,
        "brand": brand,
        "hue": hue(rng),
        "products": products,
        "cart": cart,
        "coupon": coupon or "NONE",
    }
    return Drawn(prompt=prompt, content=content, check={"kind": "state", "want": [wanted]}, solution=steps)


def _told(count: int, colour: str, name: str) -> str:
    return f"{count} x {name}" + (f" in {colour}" if colour else "")


def _buying(products: list[dict[str, Any]], lines: list[tuple[int, str, int]]) -> list[Step]:
    steps: list[Step] = []
    for at, colour, count in lines:
        steps += [("open", f"http://{Shop.host}/"), ("click", f'link "{products[at]["name"]}"')]
        steps += [("select", 'combobox "Colour"', colour)] if colour else []
        steps += [("type", 'textbox "Quantity"', str(count)), ("click", 'button "Add to cart"')]
    return steps
