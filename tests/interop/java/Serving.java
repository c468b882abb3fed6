import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerServiceDefinition;
import io.grpc.Status;
import io.grpc.netty.NettyServerBuilder;
import io.netty.channel.EventLoopGroup;
import io.netty.channel.MultiThreadIoEventLoopGroup;
import io.netty.channel.epoll.EpollIoHandler;
import io.netty.channel.epoll.EpollServerDomainSocketChannel;
import io.netty.channel.unix.DomainSocketAddress;
import java.io.ByteArrayOutputStream;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;

/** The plugin. */
final class Serving {
  /** A call that takes so long is announced on stderr. */
  private static final long HELD_MILLIS = 300;

  private static final ScheduledExecutorService timers =
      Executors.newSingleThreadScheduledExecutor();

  private Serving() {}

  static void run(String socket) throws Exception {
    ServerServiceDefinition.Builder service = ServerServiceDefinition.builder(Peer.SERVICE);
    for (MethodDescriptor<byte[], byte[]> method : Peer.METHODS.values()) {
      service.addMethod(method, Serving::start);
    }
    EventLoopGroup loop = new MultiThreadIoEventLoopGroup(1, EpollIoHandler.newFactory());
    Server server =
        NettyServerBuilder.forAddress(new DomainSocketAddress(socket))
            .channelType(EpollServerDomainSocketChannel.class)
            .bossEventLoopGroup(loop)
            .workerEventLoopGroup(loop)
            .addService(service.build())
            .build()
            .start();
    Runtime.getRuntime().addShutdownHook(new Thread(() -> drain(server)));
    server.awaitTermination();
  }

  /** Finish the running calls; the mesh sends SIGKILL if that takes too long. */
  private static void drain(Server server) {
    try {
      server.shutdown().awaitTermination();
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  private static ServerCall.Listener<byte[]> start(
      ServerCall<byte[], byte[]> call, Metadata headers) {
    MethodType type = call.getMethodDescriptor().getType();
    List<byte[]> received = new ArrayList<>();
    call.request(Integer.MAX_VALUE);
    if (!type.serverSendsOneMessage()) {
      call.sendHeaders(echoed(headers, "x-initial-size"));
    }
    return new ServerCall.Listener<>() {
      @Override
      public void onMessage(byte[] message) {
        if (type == MethodType.BIDI_STREAMING) {
          call.sendMessage(message);
        } else {
          received.add(message);
        }
      }

      @Override
      public void onHalfClose() {
        long delay = delay(headers);
        if (delay >= HELD_MILLIS) {
          System.err.println("holding");
        }
        if (delay > 0) {
          timers.schedule(() -> end(call, headers, received), delay, TimeUnit.MILLISECONDS);
        } else {
          end(call, headers, received);
        }
      }
    };
  }

  private static void end(
      ServerCall<byte[], byte[]> call, Metadata headers, List<byte[]> received) {
    if (call.isCancelled()) {
      return;
    }
    Status status = status(headers);
    MethodType type = call.getMethodDescriptor().getType();
    if (status.isOk()) {
      if (type.serverSendsOneMessage()) {
        call.sendHeaders(echoed(headers, "x-initial-size"));
      }
      replies(type, received).forEach(call::sendMessage);
    }
    call.close(status, echoed(headers, "x-trailing-size"));
  }

  private static List<byte[]> replies(MethodType type, List<byte[]> received) {
    ByteArrayOutputStream joined = new ByteArrayOutputStream();
    received.forEach(joined::writeBytes);
    List<byte[]> replies = new ArrayList<>();
    if (type == MethodType.SERVER_STREAMING) {
      for (byte each : joined.toByteArray()) {
        replies.add(new byte[] {each});
      }
    } else if (type.serverSendsOneMessage()) {
      replies.add(joined.toByteArray());
    }
    return replies;
  }

  /** How many milliseconds the caller wants this call to take. */
  private static long delay(Metadata headers) {
    String early = Peer.asked(headers, "x-before-deadline-ms");
    Deadline deadline = Context.current().getDeadline();
    if (early != null && deadline != null) {
      return deadline.timeRemaining(TimeUnit.MILLISECONDS) - Long.parseLong(early);
    }
    String sleep = Peer.asked(headers, "x-sleep-ms");
    return sleep == null ? 0 : Long.parseLong(sleep);
  }

  private static Status status(Metadata headers) {
    String code = Peer.asked(headers, "x-status");
    if (code == null) {
      return Status.OK;
    }
    String text = Peer.asked(headers, "x-message-bin");
    return Status.fromCodeValue(Integer.parseInt(code)).withDescription(text);
  }

  /** The metadata that the caller asks for. */
  private static Metadata echoed(Metadata headers, String sizeKey) {
    Metadata metadata = new Metadata();
    for (String name : headers.keys()) {
      if (name.startsWith("x-echo")) {
        headers.getAll(Peer.keyFor(name)).forEach(v -> metadata.put(Peer.keyFor(name), v));
      }
    }
    byte[] raw = headers.get(Peer.binaryKey("x-raw-bin"));
    if (raw != null) {
      metadata.put(Peer.rawKey("x-raw"), raw);
    }
    String size = Peer.asked(headers, sizeKey);
    if (size != null) {
      metadata.put(Peer.rawKey("x-large"), "a".repeat(Integer.parseInt(size)).getBytes());
    }
    return metadata;
  }
}
