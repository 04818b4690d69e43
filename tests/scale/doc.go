// SPDX-License-Identifier: Apache-2.0

// Package scale holds many agents, each with its link and a standby stream, on workers that are
// processes of their own, over mutual TLS, from several source addresses in 127/8. It proves
// what matters at any number and reports what a number costs:
//
//	go test ./tests/scale -v                                  a smoke, 24 agents
//	make scale N=10000 FOR=10m                                what the figures are taken from
//
// An agent is two streams: N=25000 is 50,000 of them, which takes some 8 GB of agents and
// 2 of workers, which are as many as the limit of open files asks for.
//
// Agents are real ones without pools, some thousands a process; etcd is real, workers are the
// program that ships. What a worker spends on an agent is compared with raw TLS frames between
// two processes in the same run. Only machines that do nothing else give figures that count.
package scale
