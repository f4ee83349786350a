# SPDX-License-Identifier: GPL-2.0-or-later
"""A real Spark, its master and two workers in processes of their own, gives the answers of DuckDB."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest
from fleets import EXAMPLES, ROOT, add_unusual, dataset_of

from balloontrace.archive.archive_recordings import archive
from balloontrace.archive.storage import open_storage
from balloontrace.fleet.ask import answer, answer_sql
from balloontrace.fleet.question import Options, Question
from balloontrace.fleet.questions import questions
from balloontrace.results.fleet_answer import Answer
from bench.fleet_recordings import KERNELS, write_fleet

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(1800)]

PORT = "spark.connect.grpc.binding.port=0"
Found = dict[str, list[list[Any]]]
SIDES = {"before": KERNELS[0], "after": KERNELS[1]}
QUERY = "SELECT kind, stage, sum(total_ns) AS total_ns FROM stages GROUP BY kind, stage ORDER BY kind, stage"
# A percentile may be in the next bin where the engines' logarithms differ in the last digit.
BIN = 2 ** (1 / 32)

# What wait_for reads.
LOG = """
rootLogger.level = info
rootLogger.appenderRef.stderr.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %m%n
"""

# All answers of one session, as JSON.
ASK = """
import json, sys
from balloontrace.errors import BalloontraceError
from balloontrace.fleet.ask import answer_on, find_dataset
from balloontrace.fleet.open_engine import open_engine
from balloontrace.fleet.question import Options
from balloontrace.fleet.questions import questions
dataset = find_dataset(sys.argv[2])
sides = json.loads(sys.argv[3])
with open_engine(sys.argv[1], dataset) as engine:
    found = {
        name: answer_on(engine, dataset, name, each, Options(limit=1000, **(sides if each.sides else
        {}))).rows for name, each in questions().items()
    }
    found["sql"] = [list(row.values()) for row in engine.ask_sql(dataset, sys.argv[4])[1]]
    found["refused"] = []
    for text in (
        "DROP VIEW operations", "SELECT 1 AS a; DROP VIEW operations", "SELECT nothing FROM operations"
    ):
        try:
            engine.ask_sql(dataset, text)
        except BalloontraceError as error:
            found["refused"].append([int(error.exit_code), str(error)[:23]])
print(json.dumps(found))
"""


class Cluster(NamedTuple):
    url: str
    connect_url: str  # of Spark Connect, which runs on it
    environment: dict[str, str]
    work: Path


@contextmanager
def spark_process(*words: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A part of the cluster, which ends with the test."""
    import pyspark

    spark = Path(pyspark.__file__).parent / "bin" / "spark-class"
    # exec: the process is then Java's, and not a shell's that leaves it behind.
    with subprocess.Popen(
        ["bash", spark, *words],
        env={**environment, "SPARK_NO_DAEMONIZE": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()


def wait_for(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """The first line of its log that has this."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if match := re.search(pattern, line):
            # What it says later is read too: a full pipe would stop it.
            Thread(target=process.stderr.read, daemon=True).start()
            return match
    raise AssertionError(f"Spark ended:\n{''.join(said)}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    assert shutil.which("java"), (
        "there is no java, on which Spark runs: lab/make-venv installs it, so run make"
    )
    folder = tmp_path_factory.mktemp("spark")
    settings = {
        "spark.executor.memory": "512m",
        "spark.driver.memory": "512m",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": "2",
        "spark.local.dir": str(folder / "scratch"),
    }
    (folder / "conf").mkdir()
    lines = "".join(f"{key} {value}\n" for key, value in settings.items())
    (folder / "conf" / "spark-defaults.conf").write_text(lines)
    (folder / "conf" / "log4j2.properties").write_text(LOG)
    environment = {
        **os.environ,
        "SPARK_CONF_DIR": str(folder / "conf"),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_DAEMON_MEMORY": "256m",
        "PYSPARK_PYTHON": sys.executable,
    }
    deploy = "org.apache.spark.deploy"
    with ExitStack() as stack:
        words = (f"{deploy}.master.Master", "--host", "127.0.0.1", "--port", "0", "--webui-port", "0")
        master = stack.enter_context(spark_process(*words, environment=environment))
        url = wait_for(master, r"Starting Spark master at (spark://\S+)")[1]
        for number in (1, 2):
            place = ("--host", "127.0.0.1", "--webui-port", "0", "--work-dir", str(folder / f"work-{number}"))
            asked = (f"{deploy}.worker.Worker", *place, "--cores", "1", "--memory", "600M", url)
            worker = stack.enter_context(spark_process(*asked, environment=environment))
            wait_for(worker, "Successfully registered with master")
        server = "org.apache.spark.sql.connect.service.SparkConnectServer"
        submit = (f"{deploy}.SparkSubmit", "--class", server, "--master", "local[1]", "--conf", PORT)
        roomy = {**environment, "SPARK_DAEMON_MEMORY": "512m"}
        connect = stack.enter_context(spark_process(*submit, environment=roomy))
        port = wait_for(connect, r"Spark Connect server started at: .*:(\d+)")[1]
        yield Cluster(url, f"sc://127.0.0.1:{port}", environment, folder)


def options_of(question: Question) -> Options:
    return Options(limit=1000, **SIDES) if question.sides else Options(limit=1000)  # type: ignore[arg-type]


def ask_spark(url: str, cluster: Cluster, data: Path) -> Found:
    """Rows by question; `sql` are those of QUERY."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, url, data, json.dumps(SIDES), QUERY],
        cwd=ROOT, env=cluster.environment, stdout=subprocess.PIPE, text=True, timeout=1500, check=True,
    )  # fmt: skip
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def assert_same(found: Found, expected: dict[str, Answer]) -> None:
    for name, wanted in expected.items():
        assert len(wanted.rows) > 0
        assert len(found[name]) == len(wanted.rows)
        binned = [column.name.startswith("p") and column.name[1:3].isdecimal() for column in wanted.columns]
        for one, other in zip(found[name], wanted.rows, strict=True):
            for cell, right, by_bin in zip(one, other, binned, strict=True):
                assert cell == right or (by_bin and 1 / BIN <= cell / right * 1.0000001 <= BIN * 1.000001), (
                    name
                )


def test_all_engines_give_the_same_answers(cluster: Cluster, tmp_path: Path) -> None:
    write_fleet(tmp_path / "recordings", 40, 2, 2)
    storage = open_storage(str(tmp_path / "data"))
    archive([tmp_path / "recordings"], storage)
    # One guest alone first, so that a batch stands for a part of another.
    archive([EXAMPLES / "after" / "after-001-guest.bt"], storage)
    archive([EXAMPLES / "after"], storage)
    add_unusual(tmp_path / "data")
    dataset = dataset_of(tmp_path / "data")
    assert dataset.hidden
    expected = {
        name: answer(dataset, name, question, options_of(question), "duckdb")
        for name, question in questions().items()
    }
    for url in (cluster.url, cluster.connect_url):
        found = ask_spark(url, cluster, tmp_path / "data")
        sql, refused = found.pop("sql"), found.pop("refused")
        assert_same(found, expected)
        assert [each[0] for each in refused] == [2, 2, 1]
        assert sql == [list(row) for row in answer_sql(dataset, QUERY, "duckdb").rows]
    # Each worker had a part in it.
    for number in (1, 2):
        assert list((cluster.work / f"work-{number}").glob("app-*/*")), number
