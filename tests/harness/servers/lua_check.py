"""The edge's Lua check of JSON bodies in a real Envoy without the rest of the edge: it returns what the check found."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from edge_gateway.launch import envoy_binary
from edge_gateway.render import source_directory
from harness.ports import free_port
from harness.processes import answers, running

_HANDLER = """
local function escaped(text) return (tostring(text):gsub('[^%w_ .,:-]', '?')) end
local function shown(found, name)
  local at = found[name]
  if at == nil then return "null" end
  return type(at) == "number" and ("%.17g"):format(at) or '"' .. at .. '"'
end
local function findings(text)
  local sound, wrong, kind, length, value, odd, nested = pcall(check_json, text, WANTED, nil)
  if not sound then return '{"failed":"' .. escaped(wrong) .. '"}' end
  if wrong then return '{"code":"' .. wrong.code .. '","message":"' .. escaped(wrong.message) .. '"}' end
  local fields = {}
  for name, found in pairs(kind) do
    fields[#fields + 1] = ('"%s":{"kind":"%s","length":%s,"value":%s,"odd":%s,"nested":%s}'):format(
      name, found, shown(length, name), shown(value, name), shown(odd, name), shown(nested, name))
  end
  return '{"fields":{' .. table.concat(fields, ",") .. "}}"
end
function envoy_on_request(handle)
  local body = handle:body()
  local all = body and body:getBytes(0, body:length()) or ""
  local out, at = {}, 1
  while at <= #all do
    local bytes = tonumber(all:sub(at, at + 7), 16)
    out[#out + 1] = findings(all:sub(at + 8, at + 7 + bytes))
    at = at + 8 + bytes
  end
  handle:respond({ [":status"] = "200" }, "[" .. table.concat(out, ",") .. "]")
end
"""


@contextlib.contextmanager
def lua_check(directory: Path, wanted: Sequence[str]) -> Iterator["LuaCheck"]:
    """Run Envoy with the check of bodies until the block ends; ``wanted`` are the fields that it reports on."""
    port, admin = free_port(), free_port()
    names = ",".join(f"{name}=true" for name in wanted)
    check = (source_directory() / "lua" / "json_check.lua").read_text()
    script = f"local WANTED = {{{names}}}\n{check}\n{_HANDLER}"
    file = directory / "envoy.json"
    file.write_text(json.dumps(_configuration(port, admin, script)))
    command: list[str | os.PathLike[str]] = [envoy_binary(), "-c", file]
    command += ["--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"]
    ready = answers(f"http://127.0.0.1:{admin}/ready")
    with (
        running(command, log=directory / "envoy.log", ready=ready),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        yield LuaCheck(client)


class LuaCheck:
    """A running check."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def findings(self, bodies: Sequence[bytes]) -> list[dict[str, Any]]:
        """Return for each body its ``fields``, or ``code`` and ``message`` of the refusal, or ``failed``."""
        joined = b"".join(b"%08x" % len(body) + body for body in bodies)
        answer = self._client.post("/", content=joined)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()
        assert len(found) == len(bodies)
        return found


def _configuration(port: int, admin: int, script: str) -> dict[str, Any]:
    api = "type.googleapis.com/envoy.extensions.filters"

    def at(number: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    manager = {
        "@type": f"{api}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "check",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "request_body_buffer_limit": 64 * 1024 * 1024,
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 500}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.lua",
                "typed_config": {
                    "@type": f"{api}.http.lua.v3.Lua",
                    "default_source_code": {"inline_string": script},
                },
            },
            {"name": "router", "typed_config": {"@type": f"{api}.http.router.v3.Router"}},
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {
        "admin": {"address": at(admin)},
        "static_resources": {"listeners": [{"address": at(port), "filter_chains": [chain]}]},
    }
