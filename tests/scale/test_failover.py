"""Failover to a standby under load: nothing acknowledged is lost, or no id is given twice."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from tests.scale.engine import Engine, engine
from tests.scale.test_processes import Load, processes


def shared_url(engines: list[Engine], name: str) -> str:
    hosts = ",".join(f"127.0.0.1:{each.port}" for each in engines)
    return f"postgresql://chatd@{hosts}/{name}?target_session_attrs=read-write"


def test_synchronous_failover_loses_nothing_acknowledged(tmp_path: Path) -> None:
    with engine(standbys=["second"]) as (primary, standby), ExitStack() as stack:
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'second'")
        primary.execute("SELECT pg_reload_conf()")
        name = primary.new_database().rpartition("/")[2]
        url = shared_url([primary, standby], name)
        nodes = stack.enter_context(processes(url, tmp_path, 2, "--store-timeout", "3"))
        load = Load(lambda: [node.port for node in nodes], 12)
        stack.callback(load.close)
        load.run(2.0)
        acknowledged = load.acknowledged()
        assert len(acknowledged) > 100
        primary.kill()
        load.run(0.5)
        acknowledged = load.acknowledged()
        standby.promote()
        standby.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        standby.execute("SELECT pg_reload_conf()")
        load.run(3.0)
        load.finish()
        rows = dict(standby.execute("SELECT key, id FROM chatd.messages", database=name))
        assert acknowledged.items() <= rows.items()
        assert load.acknowledged().items() <= rows.items()
        assert max(rows.values()) > 1_000_000, "the failover skips ids"
        for client in load.clients:
            assert not set(client.entries) ^ set(rows.values()), client.name
        print(f"{len(acknowledged)} acknowledged before the failover, {len(rows)} stored after it")


def test_asynchronous_failover_gives_no_id_twice(tmp_path: Path) -> None:
    with engine(standbys=["second"]) as (primary, standby), ExitStack() as stack:
        name = primary.new_database().rpartition("/")[2]
        url = shared_url([primary, standby], name)
        nodes = stack.enter_context(processes(url, tmp_path, 2, "--store-timeout", "3"))
        load = Load(lambda: [node.port for node in nodes], 12)
        load.allow_gaps()
        stack.callback(load.close)
        load.run(1.5)
        standby.stop_replication()
        load.run(1.0)
        seen = load.acknowledged()
        primary.kill()
        standby.promote()
        load.run(3.0)
        load.finish()
        rows = standby.execute("SELECT id, key FROM chatd.messages", database=name)
        stored = {key: number for number, key in rows}
        lost = seen.keys() - stored.keys()
        assert lost, "the test has not lost any message"
        keys: defaultdict[int, set[str]] = defaultdict(set)
        for key, number in (*seen.items(), *stored.items(), *load.acknowledged().items()):
            keys[number].add(key)
        assert all(len(each) == 1 for each in keys.values()), "an id was given twice"
        new = {number for number in stored.values() if number > 1_000_000}
        for client in load.clients:
            missing = len(new - set(client.entries))
            assert missing == 0, f"{client.name} misses {missing} new entries"
        print(f"{len(lost)} lost with the primary, {len(new)} new entries reached all clients")
