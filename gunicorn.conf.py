"""gunicorn reads this by itself when it is started here: `gunicorn sse_demo.asgi` is the whole command."""

worker_class = "events.worker.EventWorker"
