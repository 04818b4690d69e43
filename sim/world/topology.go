// SPDX-License-Identifier: Apache-2.0

package world

import (
	"fmt"
	"net"
	"net/netip"
)

// MaxHosts bounds a simulated fleet: every host costs two processes.
const MaxHosts = 200

const (
	clustersPerPod = 2
	podsPerZone    = 2

	echoPort    = 7007 // of a host's kernel
	bmcPort     = 6230
	redfishPort = 6231
	pduPort     = 6232
)

// Place is where a host stands and what it is wired to.
type Place struct {
	Host, Zone, Pod, Cluster string
	Rack                     string     // at most two hosts of a pod share one
	Pool                     string     // the cluster's shared pool
	Addr                     netip.Addr // its own address
	BMC                      netip.AddrPort
	Redfish                  netip.AddrPort    // of the same chassis; none for most
	PDUs                     [2]netip.AddrPort // that feed it, both through this outlet
	Outlet                   int               // 0 for most: nobody can cut its mains
}

// Partition is the path zone/pod/cluster.
func (p Place) Partition() string { return p.Zone + "/" + p.Pod + "/" + p.Cluster }

// Probe is the address at which the host's kernel answers, for neighbours' probes.
func (p Place) Probe() string {
	return "udp-echo://" + netip.AddrPortFrom(p.Addr, echoPort).String()
}

// Control is the control address of the host's hypervisor: for its agent, and for
// migrations to it.
func (p Place) Control() string { return "@holdfast-hypervisor-" + p.Addr.String() }

// LocalPool is the pool that the host has for itself.
func (p Place) LocalPool() string { return "local-" + p.Host }

// Plan places n hosts, h001 and on, in clusters of 3 to 4 (one smaller or of 5 where n
// allows nothing else), pods of two clusters and zones of two pods, with addresses
// out of b. In clusters of four the third host has a Redfish service, and the fourth of
// every other one hangs on two PDUs. It is pure: the same n gives the same fleet.
func Plan(n int, b Block) ([]Place, error) {
	if n < 1 || n > MaxHosts {
		return nil, fmt.Errorf("hosts: %d, allowed are 1 to %d", n, MaxHosts)
	}
	clusters := max(1, min((n+3)/4, n/3))
	out := make([]Place, 0, n)
	outlets := 0
	for c := range clusters {
		pod := c / clustersPerPod
		size := n / clusters
		if c < n%clusters {
			size++
		}
		for i := range size {
			k := len(out) + 1
			p := Place{
				Host:    fmt.Sprintf("h%03d", k),
				Zone:    fmt.Sprintf("z%d", pod/podsPerZone+1),
				Pod:     fmt.Sprintf("p%d", pod+1),
				Cluster: fmt.Sprintf("c%d", c+1),
				Rack:    fmt.Sprintf("p%d-r%d", pod+1, i+1),
				Pool:    fmt.Sprintf("pool-c%d", c+1),
				Addr:    b.addr(0, byte(k)),
				BMC:     netip.AddrPortFrom(b.addr(100, byte(k)), bmcPort),
			}
			switch {
			case size < 4:
			case i == 2:
				p.Redfish = netip.AddrPortFrom(p.BMC.Addr(), redfishPort)
			case i == 3 && c%2 == 1:
				outlets++
				p.Outlet, p.PDUs = outlets, [2]netip.AddrPort{netip.AddrPortFrom(b.addr(101, 1), pduPort), netip.AddrPortFrom(b.addr(101, 2), pduPort)}
			}
			out = append(out, p)
		}
	}
	return out, nil
}

// Block is a part of loopback, 127.N.0.0/16, that belongs to one simulated world, so
// that worlds side by side need no free-port guesses.
type Block struct {
	n    byte
	lock net.PacketConn
}

const (
	firstBlock = 77
	lastBlock  = 250
	lockPort   = 7000
)

// TakeBlock takes the first block that no other world on this machine holds. Close
// gives it back.
func TakeBlock() (Block, error) {
	var last error
	for n := firstBlock; n <= lastBlock; n++ {
		b := Block{n: byte(n)}
		lock, err := net.ListenPacket("udp", netip.AddrPortFrom(b.addr(255, 1), lockPort).String())
		if err == nil {
			b.lock = lock
			return b, nil
		}
		last = err
	}
	return Block{}, fmt.Errorf("take a loopback block: all of 127.%d.0.0/16 to 127.%d.0.0/16 are in use: %w", firstBlock, lastBlock, last)
}

// Worker is the address of worker i, counted from 1.
func (b Block) Worker(i int) netip.Addr { return b.addr(200, byte(i)) }

// Close gives the block back.
func (b Block) Close() error { return b.lock.Close() }

func (b Block) addr(third, fourth byte) netip.Addr {
	return netip.AddrFrom4([4]byte{127, b.n, third, fourth})
}
