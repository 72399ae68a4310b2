"""Start scripts without importing their packages again: five of the seven seconds of a short run.

``python tests/fork_server.py SOCKET`` imports the packages of all scripts and waits. With
``script.py ...`` after the socket, it has the server fork a process that runs the script in this
folder, with this environment and these standard streams, and exits with its status; ``-m MODULE``
runs a module. Whoever kills the waiting process kills the forked one with it. torch keeps the
number of threads of the server, whatever OMP_NUM_THREADS says.
"""

import json
import os
import signal
import socket
import socketserver
import sys
import threading


class RunScript(socketserver.BaseRequestHandler):
    """Runs in a forked process."""

    def handle(self):
        import runpy
        import traceback

        message, streams, _, _ = socket.recv_fds(self.request, 200_000, 3)
        call = json.loads(message)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.chdir(call["folder"])
        os.environ.clear()
        os.environ.update(call["environment"])
        threading.Thread(target=self.end_with_client, daemon=True).start()
        is_module = call["arguments"][0] == "-m"
        sys.argv = call["arguments"][is_module:]
        sys.path[0] = "" if is_module else os.path.dirname(os.path.abspath(sys.argv[0]))
        status = 0
        try:
            if is_module:
                runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        self.request.send(bytes([status]))

    def end_with_client(self):
        """End this process when the client, which sends nothing more, has ended."""
        self.request.recv(1)
        os.kill(os.getpid(), signal.SIGKILL)


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Waits for calls until it is terminated."""

    socket_type = socket.SOCK_SEQPACKET
    max_children = 100


def serve(path):
    """Import what the scripts import, but not the scripts, and serve calls at this socket."""
    from importlib import import_module
    from pathlib import Path

    root = Path(__file__).resolve().parent.parent
    sys.path[:0] = [str(root), str(root / "tools")]
    scripts = [script.stem for script in (*root.glob("*.py"), *root.glob("tools/*.py"))]
    for name in (*scripts, "accelerate.commands.launch", "torch.distributed.run"):
        import_module(name)
    for name in scripts:  # a copy of a script does not find the project
        del sys.modules[name]
    sys.path[:3] = [""]
    with Server(path, RunScript) as server:
        server.serve_forever()


def call(path, arguments):
    """Run a script in a process that the server forks, and return its exit status."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(path)
        message = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(connection, [json.dumps(message).encode()], [0, 1, 2])
        return (connection.recv(1) or b"\1")[0]


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        sys.exit(call(sys.argv[1], sys.argv[2:]))
