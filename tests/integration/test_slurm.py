"""cluster/slurm/coppice.sbatch on a Slurm of this one machine, started for the test and ended with it: its own munged, slurmctld and
slurmd, with sockets and ports of their own, as whoever runs the test."""

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest
from job_files import ROOT
from ranks import processes

DAEMONS = ("munged", "slurmctld", "slurmd")
# One user, no cgroups, no accounting; twice the cores that are there, for machines of two.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 Boards=1 SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=2000
PartitionName=main Nodes=ALL Default=YES State=UP
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture
def slurm(tmp_path_factory):
    """The environment in which sbatch and the others speak to this Slurm."""
    search = os.environ["PATH"] + ":/usr/sbin"
    missing = [name for name in DAEMONS if not shutil.which(name, path=search)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (Debian: slurm-wlm munge)")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    host = socket.gethostname().split(".")[0]
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(host=host, user=getpass.getuser(), folder=folder, ports=free_ports(2)))
    environment = {**os.environ, "PATH": search, "SLURM_CONF": str(configuration)}
    for name in [name for name in environment if name.startswith(("SLURM_", "OMPI_", "PMIX_")) and name != "SLURM_CONF"]:
        del environment[name]
    munged = ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key"]
    munged += [f"--{name}-file={folder}/munged.{name}" for name in ("pid", "log", "seed")]
    started = []
    try:
        for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D", "-N", host]):
            log = open(folder / f"{command[0]}.out", "w")
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            time.sleep(0.5)
        wait_for(lambda: "idle" in asked(environment, "sinfo", "-h", "-o", "%T"), 30, f"Slurm to be idle ({folder}/*.log)")
        yield environment
    finally:
        subprocess.run(["scancel", "--user", getpass.getuser()], env=environment, timeout=30)
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in reversed(started):
            process.wait(timeout=30)


def asked(environment, *command):
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30).stdout.strip()


def wait_for(condition, timeout_s, what):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s} s for {what}"
        time.sleep(0.2)


def submit(environment, program, tmp_path, *arguments, stages, sbatch=()):
    script = ROOT / "cluster/slurm/coppice.sbatch"
    command = ["sbatch", "--parsable", f"--ntasks={1 + stages}", "--cpus-per-task=1", f"--output={tmp_path}/log", *sbatch, script]
    command += [*arguments, "--stages", str(stages)]
    environment = {**environment, "COPPICE": str(program), "MPIRUN_OPTIONS": "--bind-to none"}  # more ranks than cores
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def state(environment, job):
    return asked(environment, "squeue", "-h", "-j", job, "-t", "all", "-o", "%T")


def test_a_job_runs_over_three_ranks(program, slurm, tmp_path):
    output = tmp_path / "run"
    job = submit(slurm, program, tmp_path, ROOT / "cluster/demo/jobs.yaml", output, "--set", "defaults.train.max_steps=2", stages=2)
    wait_for(lambda: state(slurm, job) not in ("PENDING", "RUNNING", "COMPLETING"), 120, f"job {job}")
    log = (tmp_path / "log").read_text()
    assert state(slurm, job) == "COMPLETED", log
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    jobs = {line["job"] for line in lines}
    assert len(jobs) == 6 and all((output / "adapters" / name / "adapter_model.safetensors").exists() for name in jobs)


def test_a_stop_commits_and_leaves_no_rank(program, slurm, tmp_path):
    output = tmp_path / "run"
    job = submit(slurm, program, tmp_path, ROOT / "cluster/demo/jobs.yaml", output, stages=2)
    metrics = output / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 8, 90, "the first steps")
    asked(slurm, "scancel", "--batch", "--signal=USR1", job)
    wait_for(lambda: state(slurm, job) not in ("RUNNING", "COMPLETING"), 60, "the stop")
    log = (tmp_path / "log").read_text()
    assert "Forwarding signal" in log and "Exit code:    3" in log, log
    assert processes(output) == {}, "a rank stayed behind"


def test_out_of_time_it_stops_in_order_and_is_queued_again(program, slurm, tmp_path):
    output = tmp_path / "run"
    job = submit(slurm, program, tmp_path, ROOT / "cluster/demo/jobs.yaml", output, stages=2)
    metrics = output / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 8, 90, "the first steps")
    asked(slurm, "scancel", "--batch", "--signal=USR2", job)  # as Slurm itself does, two minutes before
    wait_for(lambda: state(slurm, job) == "PENDING", 60, "the job to be queued again")
    assert "every job is committed" in (tmp_path / "log").read_text()
    assert processes(output) == {}, "a rank stayed behind"
