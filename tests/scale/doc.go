// SPDX-License-Identifier: Apache-2.0

// Package scale holds many agents, each with its link and a standby stream, on three workers
// in one process over real sockets, from several source addresses in 127/8. It proves what
// matters at any number and reports what a number costs:
//
//	go test ./tests/scale -v                                  a smoke, 24 agents
//	go test ./tests/scale -v -timeout 1h -agents 10000 -hold 10m
//
// The agents are real ones without pools; etcd is real too.
package scale
