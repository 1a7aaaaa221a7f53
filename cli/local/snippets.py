"""Ready-to-paste text: how to send events to an endpoint and how to read them. Pure."""

from __future__ import annotations

from urllib.parse import urlsplit


def send(url: str, key: str = "$WRITE_KEY") -> str:
    """Sending with curl, the Segment SDK, grpcurl and Python over gRPC."""
    address = urlsplit(url).netloc
    python_key = f'"{key}"' if not key.startswith("$") else f'os.environ["{key[1:]}"]'
    return f"""# curl
curl -sS -u "{key}:" {url}/v1/track -H 'content-type: application/json' \\
  -d '{{"userId":"ada","event":"Order Completed","properties":{{"total":42}}}}'

# Segment's Python SDK (pip install segment-analytics-python)
import os; import segment.analytics as analytics
analytics.write_key, analytics.host = {python_key}, "{url}"
analytics.track("ada", "Order Completed", {{"total": 42}}); analytics.flush()

# grpcurl, in the repository's folder
grpcurl -plaintext -import-path proto -proto dataflow/ingest/v1/ingest.proto -H "authorization: Bearer {key}" \\
  -d '{{"events":[{{"type":"EVENT_TYPE_TRACK","userId":"ada","name":"Order Completed","struct":{{"total":42}}}}]}}' \\
  {address} dataflow.ingest.v1.IngestService/Ingest

# Python over gRPC, in the repository's virtual environment
import os, grpc
from dataflow.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from dataflow.types.v1 import event_pb2
event = event_pb2.Event(type="EVENT_TYPE_TRACK", user_id="ada", name="Order Completed", json=b'{{"total":42}}')
service = ingest_pb2_grpc.IngestServiceStub(grpc.insecure_channel("{address}"))
print(service.Ingest(ingest_pb2.IngestRequest(events=[event]), metadata=[("authorization", "Bearer " + {python_key})]))
"""


def read(url: str, key: str = "$READ_KEY") -> str:
    """Reading with curl."""
    return f"""# the newest events
curl -sS -H "authorization: Bearer {key}" "{url}/v1/events?pageSize=5"
"""
