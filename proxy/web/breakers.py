"""Opening and closing a gateway's circuit breakers by hand, on the admin listener."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proxy.core.breaker import Switch
from proxy.flow.walk import Lane
from proxy.ports import Audit, AuditUnavailable
from proxy.telemetry.logs import masked_text
from proxy.web.auth import CHALLENGE, Gatekeeper, Role


class SwitchBody(BaseModel):
    """`{"state": "open", "reason": "their maintenance"}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: Switch
    reason: Annotated[str, Field(min_length=1, max_length=500)]


class Breakers:
    """`POST /-/gateways/{name}/breaker`."""

    def __init__(
        self, lanes: Mapping[str, Lane], gatekeeper: Gatekeeper, audit: Audit | None
    ) -> None:
        self._lanes = lanes
        self._gatekeeper = gatekeeper
        self._audit = audit

    async def switch(self, request: web.Request) -> web.Response:
        """Do it, with an entry in the audit trail, also if it is refused; nothing is done while
        entries are known not to be written.
        """
        name, role = request.match_info["name"], self._gatekeeper.role(request)
        said: dict[str, object] = {
            "source": "admin listener",
            "who": {"role": role.name.lower(), "peer": request.remote},
            "action": "breaker",
            "gateway": masked_text(name[:100]),
        }
        try:
            if self._audit is not None:
                await self._audit.ready()
            refused = await self._switched(request, role, said)
            if self._audit is not None:
                await self._audit.write(said)
        except AuditUnavailable as error:
            done = "result" in said and said["result"] == "changed"
            text = f"the audit trail takes no entries: {error}\ncarried out: {done}\n"
            return web.Response(status=503, text=text)
        return refused or web.json_response({"gateway": name, "breakers": self._shown(name)})

    async def _switched(
        self, request: web.Request, role: Role, said: dict[str, object]
    ) -> web.Response | None:
        """The answer that says why not, or None. What is said of it is for the audit trail."""
        status, why, headers = 0, "", None
        lane = self._lanes.get(request.match_info["name"])
        if role < Role.OPERATOR:
            status, why, headers = 401, self._gatekeeper.nobody, CHALLENGE
        elif lane is None:
            status, why = 404, "there is no such gateway"
        else:
            try:
                body = SwitchBody.model_validate_json(await request.read())
            except ValidationError as error:
                status, why = 422, _told(error)
            else:
                before = self._shown(lane.name)
                for admission in lane.admissions:
                    admission.switch(body.state, masked_text(body.reason))
                after = self._shown(lane.name)
                said |= {"state": body.state, "reason": masked_text(body.reason)}
                said |= {"before": before, "after": after}
                said["result"] = "unchanged" if before == after else "changed"
                return None
        said |= {"result": "refused", "why": why}
        return web.Response(status=status, text=f"{why}\n", headers=headers)

    def _shown(self, name: str) -> list[dict[str, object]]:
        """The state of each breaker of a gateway."""
        return [
            {
                "operation": operation,
                "state": admission.breaker.state.name.lower(),
                "byHand": admission.breaker.by_hand,
            }
            for operation, admission in self._lanes[name].admissions.items()
        ]


def _told(error: ValidationError) -> str:
    """Every mistake in a body, a line each."""
    return "\n".join(
        f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors()
    )
