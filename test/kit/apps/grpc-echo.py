"""The service echo.Echo of texts on gRPC's own library, and a client of it.

Usage: grpc-echo.py serve PORT
       grpc-echo.py call ADDRESS METHOD TEXT...   prints each answer, then `status NAME DETAILS`
"""

import sys
import time
from concurrent import futures

import grpc


def text(data):
    return data.decode()


def data(message):
    return message.encode()


def unary(request, context):
    context.set_trailing_metadata((("x-deadline", "yes" if context.time_remaining() is not None else "no"),))
    return request


def count(request, context):
    for number in range(1, int(request) + 1):
        yield str(number)


def collect(requests, context):
    return " ".join(requests)


def talk(requests, context):
    yield from requests


def fail(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: §")


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary, text, data),
    "Count": grpc.unary_stream_rpc_method_handler(count, text, data),
    "Collect": grpc.stream_unary_rpc_method_handler(collect, text, data),
    "Talk": grpc.stream_stream_rpc_method_handler(talk, text, data),
    "Fail": grpc.unary_unary_rpc_method_handler(fail, text, data),
}


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", HANDLERS),))
    if server.add_insecure_port(f"[::]:{port}") == 0:
        sys.exit(f"cannot listen on {port}")
    server.start()
    print(f"listening on {port}", flush=True)
    server.wait_for_termination()


def talking(texts):
    """The second message goes out after the first, so that an answer can come between them."""
    for each in texts:
        yield each
        time.sleep(0.05)


def call(address, method, texts):
    with grpc.insecure_channel(address) as channel:
        path = f"/echo.Echo/{method}"
        try:
            if method == "Count":
                answers = channel.unary_stream(path, data, text)(texts[0], timeout=5)
            elif method == "Collect":
                answers = [channel.stream_unary(path, data, text)(iter(texts), timeout=5)]
            elif method == "Talk":
                answers = channel.stream_stream(path, data, text)(talking(texts), timeout=5)
            else:
                answer, done = channel.unary_unary(path, data, text).with_call(texts[0], timeout=5)
                answers = [answer] + [f"{key}={value}" for key, value in done.trailing_metadata()]
            for answer in answers:
                print(answer)
            print("status OK")
        except grpc.RpcError as error:
            print(f"status {error.code().name} {error.details()}")


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    call(sys.argv[2], sys.argv[3], sys.argv[4:])
