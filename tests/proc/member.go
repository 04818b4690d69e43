// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/holdfast-ha/holdfast/sim/world"
)

const (
	members    = 3
	memberAt   = 100 // Block.Worker(memberAt+i) is etcd member i, from 1
	clientPort = 2379
	peerPort   = 2380
)

// Member is one etcd member, in a process of its own: the part of the role "member".
type Member struct {
	Name, Dir    string
	Client, Peer netip.AddrPort
	Cluster      string // name=peer URL, …
}

// Members lays out a cluster of three in a block of addresses, with their data below dir.
func Members(dir string, block world.Block) []Member {
	var all []Member
	var cluster []string
	for i := 1; i <= members; i++ {
		at, name := block.Worker(memberAt+i), fmt.Sprintf("m%d", i)
		m := Member{Name: name, Dir: filepath.Join(dir, name), Client: netip.AddrPortFrom(at, clientPort), Peer: netip.AddrPortFrom(at, peerPort)}
		all, cluster = append(all, m), append(cluster, fmt.Sprintf("%s=http://%s", name, m.Peer))
	}
	for i := range all {
		all[i].Cluster = strings.Join(cluster, ",")
	}
	return all
}

// Endpoint is where clients find it, as leases.Config takes it.
func (m Member) Endpoint() string { return "http://" + m.Client.String() }

// Start starts it as a child; its output goes to a file beside its data.
func (m Member) Start(s *world.Spawner) (*world.Proc, error) {
	return Start(s, "member", m.Name, m, m.Dir+".log")
}

// Run is the member, until ctx ends. Settings that a test needs otherwise it adjusts.
func (m Member) Run(ctx context.Context, adjust func(*embed.Config)) error {
	at := func(a netip.AddrPort) []url.URL { return []url.URL{{Scheme: "http", Host: a.String()}} }
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = m.Name, m.Dir
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = at(m.Peer), at(m.Peer)
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = at(m.Client), at(m.Client)
	cfg.InitialCluster = m.Cluster
	cfg.LogLevel, cfg.LogOutputs = "error", []string{"stderr"}
	adjust(cfg)
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("start member %s: %w", m.Name, err)
	}
	defer etcd.Close()
	select {
	case <-ctx.Done():
		return nil
	case err := <-etcd.Err():
		return fmt.Errorf("member %s: %w", m.Name, err)
	}
}
