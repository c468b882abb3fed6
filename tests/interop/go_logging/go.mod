module meshtrio/logging

go 1.25

require google.golang.org/grpc v1.75.0
