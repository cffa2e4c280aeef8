"""The dialects of the simulated gateway: one module per gateway beside Stripe's first API, with
what each does to a repeated key. What is not known of a gateway is made up, and said so.
"""

from __future__ import annotations

from proxy.demo.dialects.adyen import SimulatedAdyen
from proxy.demo.dialects.amazon import SimulatedAmazonPay
from proxy.demo.dialects.braintree import SimulatedBraintree
from proxy.demo.dialects.checkout import SimulatedCheckout
from proxy.demo.dialects.gocardless import SimulatedGoCardless
from proxy.demo.dialects.klarna import SimulatedKlarna
from proxy.demo.dialects.mollie import SimulatedMollie
from proxy.demo.dialects.paypal import SimulatedPayPal
from proxy.demo.dialects.paystack import SimulatedPaystack
from proxy.demo.dialects.razorpay import SimulatedRazorpay
from proxy.demo.dialects.square import SimulatedSquare
from proxy.demo.dialects.stripe_v2 import SimulatedStripeV2
from proxy.demo.gateway import SimulatedGateway
from proxy.demo.simulator import Simulator

DIALECTS: dict[str, type[Simulator]] = {
    "adyen": SimulatedAdyen,
    "amazon-pay": SimulatedAmazonPay,
    "braintree": SimulatedBraintree,
    "checkout": SimulatedCheckout,
    "gocardless": SimulatedGoCardless,
    "klarna": SimulatedKlarna,
    "mollie": SimulatedMollie,
    "paypal": SimulatedPayPal,
    "paystack": SimulatedPaystack,
    "razorpay": SimulatedRazorpay,
    "square": SimulatedSquare,
    "stripe": SimulatedGateway,
    "stripe-v2": SimulatedStripeV2,
}
