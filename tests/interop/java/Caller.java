import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.netty.NettyChannelBuilder;
import io.netty.channel.MultiThreadIoEventLoopGroup;
import io.netty.channel.epoll.EpollDomainSocketChannel;
import io.netty.channel.epoll.EpollIoHandler;
import io.netty.channel.unix.DomainSocketAddress;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.concurrent.TimeUnit;

/** The client: each line of stdin is a call in JSON, each line of stdout a result. */
final class Caller {
  private static final Gson gson = new Gson();

  private Caller() {}

  static void run(String target) throws IOException {
    ManagedChannel channel = connect(target);
    BufferedReader lines =
        new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      call(channel, JsonParser.parseString(line).getAsJsonObject());
    }
    System.exit(0);
  }

  private static ManagedChannel connect(String target) {
    if (!target.startsWith("unix:")) {
      return NettyChannelBuilder.forTarget(target).usePlaintext().build();
    }
    return NettyChannelBuilder.forAddress(new DomainSocketAddress(target.substring(5)))
        .channelType(EpollDomainSocketChannel.class, DomainSocketAddress.class)
        .eventLoopGroup(new MultiThreadIoEventLoopGroup(1, EpollIoHandler.newFactory()))
        .overrideAuthority("localhost")
        .usePlaintext()
        .build();
  }

  private static void call(ManagedChannel channel, JsonObject order) {
    MethodDescriptor<byte[], byte[]> method = Peer.METHODS.get(order.get("method").getAsString());
    CallOptions options = CallOptions.DEFAULT;
    if (!order.get("timeout").isJsonNull()) {
      long millis = Math.round(order.get("timeout").getAsDouble() * 1000);
      options = options.withDeadlineAfter(millis, TimeUnit.MILLISECONDS);
    }
    ClientCall<byte[], byte[]> call = channel.newCall(method, options);
    call.start(new Recorder(order.get("id").getAsInt()), toMetadata(order.getAsJsonArray("metadata")));
    call.request(Integer.MAX_VALUE);
    for (JsonElement message : order.getAsJsonArray("messages")) {
      call.sendMessage(Base64.getDecoder().decode(message.getAsString()));
    }
    call.halfClose();
  }

  private static Metadata toMetadata(JsonArray pairs) {
    Metadata metadata = new Metadata();
    for (JsonElement pair : pairs) {
      String key = pair.getAsJsonArray().get(0).getAsString();
      String value = pair.getAsJsonArray().get(1).getAsString();
      byte[] raw = value.getBytes(StandardCharsets.UTF_8);
      metadata.put(
          Peer.keyFor(key), key.endsWith("-bin") ? Base64.getDecoder().decode(value) : raw);
    }
    return metadata;
  }

  private static JsonArray toPairs(Metadata metadata) {
    JsonArray pairs = new JsonArray();
    for (String name : metadata.keys()) {
      for (byte[] value : metadata.getAll(Peer.keyFor(name))) {
        JsonArray pair = new JsonArray();
        pair.add(name);
        pair.add(name.endsWith("-bin") ? encode(value) : new String(value, StandardCharsets.UTF_8));
        pairs.add(pair);
      }
    }
    return pairs;
  }

  private static String encode(byte[] value) {
    return Base64.getEncoder().encodeToString(value);
  }

  /** Collects what comes back, and prints it when the call ends. */
  private static final class Recorder extends ClientCall.Listener<byte[]> {
    private final JsonObject result = new JsonObject();
    private final JsonArray replies = new JsonArray();

    Recorder(int id) {
      result.addProperty("id", id);
      result.add("replies", replies);
      result.add("initial", new JsonArray());
    }

    @Override
    public void onHeaders(Metadata headers) {
      result.add("initial", toPairs(headers));
    }

    @Override
    public void onMessage(byte[] message) {
      replies.add(encode(message));
    }

    @Override
    public void onClose(Status status, Metadata trailers) {
      result.addProperty("code", status.getCode().value());
      result.addProperty("message", status.getDescription());
      result.add("trailing", toPairs(trailers));
      synchronized (gson) {
        System.out.println(gson.toJson(result));
      }
    }
  }
}
