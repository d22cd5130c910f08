"""`make run`: a node on this machine, a real workflow on it, its result, and what to try next.

    python -m examples.quickstart           stays up until Ctrl-C
    python -m examples.quickstart --once    ends after the result, exit status 0

The node keeps its data in ./.run/data and listens on 127.0.0.1:7410, or on a free port when that one is taken.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from thaiyyal.client import ClientError, Execution, RetrySettings, SyncClient

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = ROOT / "examples" / "order.json"
DATA_DIR = ROOT / ".run" / "data"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


def main() -> int:
    """The exit status: 0 when the workflow completed."""
    parser = argparse.ArgumentParser(prog="python -m examples.quickstart", description=__doc__.split("\n")[0])
    parser.add_argument("--once", action="store_true", help="end after the result")
    parser.add_argument(
        "--port", type=int, default=7410, help="where the API listens (default 7410; 0: a free one)"
    )
    parser.add_argument("--data-dir", type=Path, default=DATA_DIR)
    options = parser.parse_args()
    port = options.port
    if port == 0:
        port = free_port()
    elif not is_free(port):
        free = free_port()
        print(f"Port {port} is taken (by another node?); this one listens on {free}.")
        port = free
    try:
        with running_node(port, options.data_dir) as node:
            execution = run_example(f"127.0.0.1:{port}")
            if execution.status != "completed":
                return 1
            if not options.once:
                print_what_next(port)
                node.wait()
    except NodeEnded as ended:
        print(ended, file=sys.stderr)
        return 1
    except ClientError as error:
        print(f"The example did not run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nThe node has stopped. Its data is kept: the next `make run` finds every execution again.")
    return 0


class NodeEnded(Exception):
    """The node did not start, or ended by itself."""


@contextlib.contextmanager
def running_node(port: int, data_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A node process that is ready; stopped in good order at the end."""
    data_dir.mkdir(parents=True, exist_ok=True)
    log_path = data_dir.parent / "node.log"
    command = [sys.executable, "-m", "cli.main", "start"]
    command += ["--api", f"127.0.0.1:{port}", "--data-dir", str(data_dir)]
    print(f"$ thaiyyal-node {' '.join(command[3:])}")
    with log_path.open("wb") as log:
        # A session of its own: Ctrl-C comes to this program, which then stops the node and waits for it.
        node = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_ready(node, port, log_path)
        yield node
    finally:
        if node.poll() is None:
            node.send_signal(signal.SIGTERM)
            try:
                node.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()


def wait_ready(node: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
    """Return when the node accepts starts. Raises NodeEnded with its last line."""
    deadline = time.monotonic() + START_TIMEOUT_S
    with SyncClient(f"127.0.0.1:{port}", retry=RetrySettings(attempts_max=1, answer_timeout_s=2.0)) as client:
        while time.monotonic() < deadline:
            if node.poll() is not None:
                lines = log_path.read_text(errors="replace").strip().splitlines()
                raise NodeEnded(lines[-1] if lines else f"The node ended with status {node.returncode}.")
            with contextlib.suppress(ClientError):
                if client.status().get("ready"):
                    return
            time.sleep(0.05)
    raise NodeEnded(f"The node was not ready after {START_TIMEOUT_S:g} s; its log is {log_path}.")


def run_example(address: str) -> Execution:
    """Run the order, with its steps on the screen as they end."""
    print(f"The node is up. Running {WORKFLOW.relative_to(ROOT)}:\n")
    with SyncClient(address) as client:
        execution = client.start(WORKFLOW.read_text())
        for event in client.events(execution.id):
            if event.type in ("step_completed", "step_skipped", "step_failed", "step_waiting"):
                print(f"  {event.time[11:23]}  {event.step or '':<15}{event.type.removeprefix('step_')}")
        execution = client.wait(execution.id)
    print(f"\nExecution {execution.id} {execution.status}. Its result:\n")
    outcome = execution.final_output if execution.error is None else execution.error.message
    print(json.dumps(outcome, indent=2, ensure_ascii=False))
    return execution


def print_what_next(port: int) -> None:
    """Commands to copy."""
    command = os.path.relpath(Path(sys.executable).with_name("thaiyyal-node"))
    node = "" if port == 7410 else f" --node 127.0.0.1:{port}"
    print(f"""
The API listens on http://127.0.0.1:{port} until Ctrl-C. In another terminal, try:

  {command} run examples/order.json{node} --input discount_from=1000
  {command} list{node}
  {command} run examples/order.json --no-wait{node}      # prints an ID; then: {command} watch ID{node}
  {command} validate examples/order.json
  curl http://127.0.0.1:{port}/v1/status

Kill the node with kill -9 while an order is under way, and run `make run` again: the order goes on.
""")


def is_free(port: int) -> bool:
    """Whether the port can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
