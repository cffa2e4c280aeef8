"""The official Python SDKs of the gateways, unmodified: only where they send is set.

They are synchronous: call them in `asyncio.to_thread`. Stripe's for its first API stands in
tests/e2e/sdks.py, and who has no SDK is asked with `plain_http`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import Adyen
import braintree
import gocardless_pro
import httpx
import razorpay
import requests
import stripe
from checkout_sdk.checkout_api import CheckoutApi
from checkout_sdk.checkout_sdk import CheckoutSdk
from checkout_sdk.default_http_client import DefaultHttpClientBuilder
from checkout_sdk.environment import Environment as CheckoutEnvironment
from mollie.api.client import Client as Mollie
from paypalserversdk.configuration import Configuration, Environment, Server
from paypalserversdk.http.auth.o_auth_2 import ClientCredentialsAuthCredentials
from paypalserversdk.paypal_serversdk_client import PaypalServersdkClient
from square import Square

_SECRET = "secret"  # any will do


@contextlib.asynccontextmanager
async def square_python(url: str) -> AsyncIterator[Square]:
    """Square's. It repeats by itself: pass `request_options={"max_retries": 0}` to a call."""
    with httpx.Client() as http:
        yield Square(base_url=url, token=_SECRET, httpx_client=http)


@contextlib.asynccontextmanager
async def adyen_python(url: str) -> AsyncIterator[Adyen.Adyen]:
    """Adyen's. Each of its services has an address of its own."""
    adyen = Adyen.Adyen(xapikey=_SECRET, platform="test")
    for service in (adyen.checkout.payments_api, adyen.checkout.modifications_api):
        service.baseUrl = f"{url}/v72"
    yield adyen


@contextlib.asynccontextmanager
async def paypal_python(url: str) -> AsyncIterator[PaypalServersdkClient]:
    """PayPal's. It has no setting for the address, but it takes it from a configuration."""
    credentials = ClientCredentialsAuthCredentials("client", _SECRET)
    with requests.Session() as http:
        config = Configuration(
            http_client_instance=http,
            environment=Environment.PRODUCTION,
            client_credentials_auth_credentials=credentials,
        )
        config.environments = {Environment.PRODUCTION: {Server.DEFAULT: url}}
        yield PaypalServersdkClient(config=config)


@contextlib.asynccontextmanager
async def checkout_python(url: str) -> AsyncIterator[CheckoutApi]:
    """Checkout.com's. An address of one's own and a merchant's subdomain do not go together."""
    builder = DefaultHttpClientBuilder()
    environment = CheckoutEnvironment(*[f"{url}/"] * 7, is_sandbox=True)
    with builder.session, warnings.catch_warnings():
        # It warns that there is no subdomain, and of a part of itself that is not used here.
        warnings.simplefilter("ignore", DeprecationWarning)
        sdk = CheckoutSdk.builder().use_legacy_domain().environment(environment)
        sdk.http_client_builder(builder).secret_key("sk_sbox_" + "a" * 27)
        yield sdk.build()


@contextlib.asynccontextmanager
async def mollie_python(url: str) -> AsyncIterator[Mollie]:
    """Mollie's. Without a path: it adds the version."""
    mollie = Mollie(api_endpoint=url)
    mollie.set_api_key("test_key")
    yield mollie
    if hasattr(mollie, "_client"):  # it has asked something
        mollie._client.close()


@contextlib.asynccontextmanager
async def razorpay_python(url: str) -> AsyncIterator[razorpay.Client]:
    """Razorpay's. It waits for ever, and repeats by itself only after `enable_retry(True)`."""
    with requests.Session() as http:
        yield razorpay.Client(session=http, auth=("key", _SECRET), base_url=url)


@contextlib.asynccontextmanager
async def gocardless_python(url: str) -> AsyncIterator[gocardless_pro.Client]:
    """GoCardless's. A path in the address would be dropped."""
    yield gocardless_pro.Client(access_token=_SECRET, base_url=url)


@contextlib.asynccontextmanager
async def braintree_python(url: str) -> AsyncIterator[braintree.BraintreeGateway]:
    """Braintree's. An environment of one's own; it speaks TLS on port 443 only."""
    where = urlsplit(url)
    here = braintree.Environment("here", where.hostname, str(where.port), "", False, None)
    yield braintree.BraintreeGateway(
        braintree.Configuration(here, merchant_id="shop", public_key="key", private_key=_SECRET)
    )


@contextlib.asynccontextmanager
async def stripe_v2_python(url: str) -> AsyncIterator[stripe.StripeClient]:
    """Stripe's, for its second API. Without retries of its own."""
    yield stripe.StripeClient("sk_test_key", base_addresses={"api": url}, max_network_retries=0)
