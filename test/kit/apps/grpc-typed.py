"""The service test.EchoService on gRPC's and protobuf's own libraries, which learn its messages from server reflection.

Usage: grpc-typed.py call ADDRESS               makes calls of every kind, prints one line of JSON for each
       grpc-typed.py serve FILES                serves it; FILES: encoded FileDescriptorProto in base64, with commas; prints the port
       grpc-typed.py transcode FILES TYPE       reads messages of TYPE in base64, a line each; prints each as JSON, a tab, and encoded anew
"""

import base64
import json
import sys
import time
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

SERVICE = "test.EchoService"


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(data):
    """(number, bytes) of the length-delimited fields of a message."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        length, at = varint(data, at)
        if tag & 7 == 2:
            yield tag >> 3, data[at : at + length]
            at += length


def string_field(number, text):
    data = text.encode()
    return bytes([number << 3 | 2, len(data)]) + data


def reflect(channel, version, request):
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    (answer,) = channel.stream_stream(path)(iter([request]), timeout=5)
    return dict(fields(answer))


def pool_of(files):
    pool = descriptor_pool.DescriptorPool()
    known = {file.name: file for file in map(descriptor_pb2.FileDescriptorProto.FromString, files)}

    def add(name):
        file = known.pop(name, None)
        if file is not None:
            for dependency in file.dependency:
                add(dependency)
            pool.Add(file)

    for name in list(known):
        add(name)
    return pool


def message_class(pool, name):
    return message_factory.MessageFactory(pool).GetPrototype(pool.FindMessageTypeByName(name))


def say(**what):
    print(json.dumps(what, sort_keys=True), flush=True)


def call(address):
    with grpc.insecure_channel(address) as channel:
        services = reflect(channel, "v1", string_field(7, ""))[6]
        say(services=[dict(fields(entry))[1].decode() for _, entry in fields(services)])
        for version in ("v1", "v1alpha"):
            files = [data for _, data in fields(reflect(channel, version, string_field(4, SERVICE))[4])]
            say(version=version, files=sorted(descriptor_pb2.FileDescriptorProto.FromString(each).name for each in files))
        unknown = reflect(channel, "v1", string_field(4, "no.such.Thing"))
        say(unknown=sorted(unknown))
        pool = pool_of(files)
        Echo = message_class(pool, "test.Echo")

        def method(kind, name):
            return getattr(channel, kind)(
                f"/{SERVICE}/{name}", request_serializer=Echo.SerializeToString, response_deserializer=Echo.FromString
            )

        def attempt(what, run):
            try:
                say(**{what: run()})
            except grpc.RpcError as error:
                details = dict(error.trailing_metadata()).get("grpc-status-details-bin")
                say(**{what: [error.code().name, error.details(), None if details is None else details.hex()]})

        hello = Echo(text="héllo", count=-1)
        attempt("unary", lambda: json_format.MessageToDict(method("unary_unary", "Say")(hello, timeout=5)))
        attempt("stream", lambda: [each.count for each in method("unary_stream", "Repeat")(Echo(count=3), timeout=5)])
        attempt("large", lambda: len(method("unary_unary", "Say")(Echo(text="x" * 200_000), timeout=5).text))
        attempt("too large", lambda: len(method("unary_unary", "Say")(Echo(text="x" * 300_000), timeout=5).text))
        talk = lambda: [each.count for each in method("stream_stream", "Talk")(iter(Echo(count=n) for n in range(20)), timeout=5)]
        attempt("bidi", talk)
        attempt("fail", lambda: method("unary_unary", "Fail")(Echo(text="no such thing: §", count=7), timeout=5))
        attempt("bug", lambda: method("unary_unary", "Fail")(Echo(text="bug"), timeout=5))
        attempt("deadline", lambda: method("unary_unary", "Hang")(hello, timeout=0.1))
        attempt("missing", lambda: method("unary_unary", "Nothing")(hello, timeout=5))
        metadata = (("workload.spiffe.io", "true"), ("workload.spiffe.io", "again"), ("some-bin", b"\x00\xff"))
        ask = lambda name: method("unary_unary", "Metadata")(Echo(text=name), timeout=5, metadata=metadata).text
        attempt("metadata", lambda: [ask("workload.spiffe.io"), ask("some-bin")])
        watch = method("unary_stream", "Watch")(hello)
        next(watch)
        watch.cancel()
        attempt("cancelled", lambda: next(watch))


def serve(files):
    pool = pool_of(files)
    Echo = message_class(pool, "test.Echo")

    def fail(request, context):
        context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x05"),))
        context.abort(grpc.StatusCode.NOT_FOUND, request.text)

    def repeat(request, context):
        for n in range(request.count):
            yield Echo(text=request.text, count=n + 1)

    def hang(request, context):
        while context.is_active():
            time.sleep(0.01)
        print("hang ended", flush=True)
        return request

    def told(request, context):
        values = [value for name, value in context.invocation_metadata() if name == request.text]
        return Echo(text="|".join(each.hex() if isinstance(each, bytes) else each for each in values))

    def talk(requests, context):
        yield from requests

    coders = (Echo.FromString, Echo.SerializeToString)
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(lambda request, context: request, *coders),
        "Repeat": grpc.unary_stream_rpc_method_handler(repeat, *coders),
        "Talk": grpc.stream_stream_rpc_method_handler(talk, *coders),
        "Fail": grpc.unary_unary_rpc_method_handler(fail, *coders),
        "Hang": grpc.unary_unary_rpc_method_handler(hang, *coders),
        "Metadata": grpc.unary_unary_rpc_method_handler(told, *coders),
    }
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"listening on {port}", flush=True)
    server.wait_for_termination()


def transcode(files, name):
    kind = message_class(pool_of(files), name)
    for line in sys.stdin:
        message = kind.FromString(base64.b64decode(line))
        text = json.dumps(json_format.MessageToDict(message, preserving_proto_field_name=True), sort_keys=True)
        encoded = base64.b64encode(message.SerializeToString(deterministic=True)).decode()
        print(f"{text}\t{encoded}")


def files_of(argument):
    return [base64.b64decode(each) for each in argument.split(",")]


if sys.argv[1] == "call":
    call(sys.argv[2])
elif sys.argv[1] == "serve":
    serve(files_of(sys.argv[2]))
else:
    transcode(files_of(sys.argv[2]), sys.argv[3])
