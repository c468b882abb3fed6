module meshtrio/bench

go 1.25

require (
	golang.org/x/sys v0.33.0
	google.golang.org/grpc v1.75.0
	google.golang.org/protobuf v1.36.6
)
