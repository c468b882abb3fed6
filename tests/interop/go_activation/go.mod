module meshtrio/activation

go 1.25

require (
	github.com/coreos/go-systemd/v22 v22.6.0
	google.golang.org/grpc v1.75.0
)
