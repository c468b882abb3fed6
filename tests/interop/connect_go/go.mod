module meshtrio/connectpeer

go 1.25

require connectrpc.com/connect v1.21.1
