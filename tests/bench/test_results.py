"""How measurements become medians, ratios, phases and a table."""

import json
from pathlib import Path

from tests.bench.child import Cost, measured
from tests.bench.gateway_log import get_phases, put_phases, requests_between
from tests.bench.results import MIB, Results, Sample, write_json


def cost(seconds: float, cpu: float = 1.0) -> Cost:
    return Cost(seconds, cpu, 50_000_000, 0.0, seconds)


def sampled() -> Results:
    results = Results("a file", "other")
    for seconds in (4.0, 2.0, 9.0):
        results.samples.append(Sample("up", "ours", 100 * MIB, cost(seconds, cpu=1.0)))
        results.samples.append(Sample("up", "other", 100 * MIB, cost(2 * seconds, cpu=0.5)))
    return results


def test_rows_are_medians_with_ratios_to_the_yardstick() -> None:
    ours, other = sampled().rows()
    assert (ours["seconds"], ours["mib_per_second"], ours["runs"]) == (4.0, 25.0, 3)
    assert (ours["seconds_ratio"], ours["cpu_ratio"]) == (0.5, 2.0)
    assert (other["seconds_ratio"], other["cpu_ratio"]) == (1.0, 1.0)


def test_the_numbers_for_machines_are_those_of_the_table(tmp_path: Path) -> None:
    results = sampled()
    write_json(tmp_path / "found.json", [results])
    found = json.loads((tmp_path / "found.json").read_text())
    (one,) = found["benchmarks"]
    assert one["rows"] == results.rows()
    assert len(one["samples"]) == 6
    assert "0.50" in results.table()
    assert found["machine"]["cpus"] >= 1


def line(second: int, ms: float, method: str, path: str) -> str:
    stamp = f"1970-01-01T00:00:{second:02d}+00:00"
    return json.dumps({"method": method, "path": path, "ms": ms, "event": "request", "timestamp": stamp})


def test_the_phases_of_a_put_add_up_to_its_time() -> None:
    log = "\n".join([
        "no json", line(1, 500, "GET", "/v1/tree"), line(5, 1000, "POST", "/v1/uploads"),
        line(9, 100, "POST", "/v1/uploads/u/urls"), line(12, 2000, "POST", "/v1/uploads/u/complete"),
        line(59, 1, "GET", "/v1/later"),
    ])  # fmt: skip
    run = cost(13.0)
    phases = put_phases(requests_between(log, run), run)
    assert phases == {
        "start and look": 1.0, "hash": 3.0, "open session": 1.0, "send": 5.0, "complete": 2.0, "end": 1.0,
    }  # fmt: skip
    assert sum(phases.values()) == run.seconds


def test_the_phases_of_a_get_are_asking_and_receiving() -> None:
    run = cost(10.0)
    log = line(2, 10, "GET", "/v1/files/f/download")
    assert get_phases(requests_between(log, run), run) == {
        "start and ask": 2.0,
        "receive, verify, flush": 8.0,
    }


def test_a_child_is_measured_by_its_own_time_and_memory(tmp_path: Path) -> None:
    held = bytearray(b"x") * (200 * MIB)
    found = measured(["/bin/sleep", "0.1"], {}, tmp_path / "log")
    assert len(held) == 200 * MIB
    assert found.seconds >= 0.1
    assert found.cpu_seconds < 0.1
    assert 0 < found.peak_bytes < 100 * MIB, "not what this process holds"
