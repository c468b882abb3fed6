import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * The peer of tests/interop/foreign.py on grpc-java: without arguments it serves on PLUGIN_SOCKET,
 * with `client TARGET` it makes the calls that it reads from stdin.
 */
public final class Peer {
  static final String SERVICE = "peer.v1.Peer";
  static final Map<String, MethodDescriptor<byte[], byte[]>> METHODS = new LinkedHashMap<>();

  static {
    add("Unary", MethodType.UNARY);
    add("ServerStream", MethodType.SERVER_STREAMING);
    add("ClientStream", MethodType.CLIENT_STREAMING);
    add("Bidi", MethodType.BIDI_STREAMING);
  }

  private Peer() {}

  public static void main(String[] arguments) throws Exception {
    if (arguments.length == 2 && arguments[0].equals("client")) {
      Caller.run(arguments[1]);
    } else {
      Serving.run(System.getenv("PLUGIN_SOCKET"));
    }
  }

  private static void add(String name, MethodType type) {
    MethodDescriptor<byte[], byte[]> method =
        MethodDescriptor.newBuilder(new Bytes(), new Bytes())
            .setType(type)
            .setFullMethodName(SERVICE + "/" + name)
            .build();
    METHODS.put(name, method);
  }

  static Metadata.Key<byte[]> binaryKey(String name) {
    return Metadata.Key.of(name, Metadata.BINARY_BYTE_MARSHALLER);
  }

  /** A key whose values are bytes, which grpc-java sends if they are ASCII. */
  static Metadata.Key<byte[]> rawKey(String name) {
    return io.grpc.InternalMetadata.keyOf(name, new RawValue());
  }

  static Metadata.Key<byte[]> keyFor(String name) {
    return name.endsWith("-bin") ? binaryKey(name) : rawKey(name);
  }

  static String asked(Metadata headers, String name) {
    Metadata.Key<byte[]> key = keyFor(name);
    return headers.containsKey(key) ? new String(headers.get(key), StandardCharsets.UTF_8) : null;
  }

  private static final class RawValue
      implements io.grpc.InternalMetadata.TrustedAsciiMarshaller<byte[]> {
    @Override
    public byte[] toAsciiString(byte[] value) {
      return value;
    }

    @Override
    public byte[] parseAsciiString(byte[] serialized) {
      return serialized;
    }
  }

  private static final class Bytes implements MethodDescriptor.Marshaller<byte[]> {
    @Override
    public InputStream stream(byte[] value) {
      return new ByteArrayInputStream(value);
    }

    @Override
    public byte[] parse(InputStream stream) {
      try {
        return stream.readAllBytes();
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }
  }
}
