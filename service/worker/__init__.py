"""A worker: lease, handle, report, over HTTP only.

It holds one job at a time. While a handler works, a thread of its own sends heartbeats: they keep the lease, carry
progress and the newest checkpoint, and bring back that the job was cancelled or the lease is lost. The handler hears
of either when it next reports. Where the server cannot be reached, a worker waits and goes on; a result is never
dropped while there is hope of delivering it.

SIGTERM drains: no new jobs; the present one has ``drain_s`` seconds to finish, then it is handed back with its
checkpoint when it next reports. A second signal hands it back at once.
"""

from service.worker.loop import Worker
from service.worker.process import run_worker

__all__ = ["Worker", "run_worker"]
