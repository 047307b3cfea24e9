"""All content of a run goes at once, and its log stays."""

from __future__ import annotations

from content.erasure import tables_with
from runwire.db import Database
from server.calls import RUNS, Api
from waiting import eventually

CANARY = "canary-Girlitz-0815"
CONTENT = f"{RUNS}/r/content"


async def test_all_content_of_a_run_that_has_ended_is_erased_and_its_log_stays(api: Api, database: str) -> None:
    fence = await api.external("r", input={"about": CANARY})
    headers = {"Runwire-Fence": str(fence), "Content-Type": "text/plain"}
    for name in ("one", "two"):
        stored = await api.http.post(
            f"{RUNS}/r/artifacts", params={"name": name}, content=f"{CANARY} {name}", headers=headers
        )
        assert stored.status_code == 201, stored.text
    await api.open_part("r", fence=fence)
    await api.write_part("r", CANARY, fence=fence, close=True)
    await api.open_part("r", fence=fence, name="left")
    await api.write_part("r", CANARY, fence=fence, n=2)
    refused = await api.http.delete(CONTENT)
    assert (refused.status_code, refused.json()["code"], refused.json()["state"]) == (409, "run_open", "started")
    assert (await api.http.get(f"{RUNS}/r/parts/2")).text == CANARY
    await api.finish("r", fence=fence)
    log = (await api.http.get(f"{RUNS}/r/events")).json()
    async with Database(database, pool_size=1) as db:
        assert await tables_with(db, CANARY)
        for _ in range(2):
            assert (await api.http.delete(CONTENT)).status_code == 204
        assert await tables_with(db, CANARY) == set()
    assert (await api.http.get(f"{RUNS}/r/events")).json() == log
    gone = [(await api.http.get(f"{RUNS}/r/{what}")).status_code for what in ("artifacts/1", "parts/1", "parts/2")]
    assert gone == [410, 410, 410]
    listed = (await api.http.get(f"{RUNS}/r/artifacts")).json()["artifacts"]
    assert [one["name"] for one in listed] == ["one", "two", "answer"]
    assert all(one["erasedAt"] for one in listed)


async def test_the_state_of_a_run_goes_with_its_content(api: Api, database: str) -> None:
    run_id = (await api.start(agent="review", input={"heard": [CANARY]}))["runId"]

    async def waits() -> bool:
        return bool((await api.run(run_id))["state"] == "waiting")

    await eventually(waits, within_s=20)
    state = f"{RUNS}/{run_id}/state"
    assert (await api.http.get(state)).json()["state"] == {"heard": [CANARY]}
    await api.http.post(f"{RUNS}/{run_id}/cancel")
    await api.ended(run_id)
    assert (await api.http.delete(f"{RUNS}/{run_id}/content")).status_code == 204
    assert (await api.http.get(state)).json()["state"] is None
    async with Database(database, pool_size=1) as db:
        assert await tables_with(db, CANARY) == set()
    assert (await api.http.delete(f"{RUNS}/nobody/content")).status_code == 404
