// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"

	"go.etcd.io/etcd/server/v3/embed"
)

// memberConfig is what an etcd member child is told.
type memberConfig struct {
	Name, Dir    string
	Client, Peer netip.AddrPort
	Cluster      string // name=peer URL, …
}

// runMember is one etcd member as leases.md §5 sets it up, until SIGTERM. It syncs its
// log: that is most of what a put costs.
func runMember(ctx context.Context, text []byte) error {
	var c memberConfig
	if err := json.Unmarshal(text, &c); err != nil {
		return fmt.Errorf("read member's part: %w", err)
	}
	at := func(a netip.AddrPort) []url.URL { return []url.URL{{Scheme: "http", Host: a.String()}} }
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = c.Name, c.Dir
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = at(c.Peer), at(c.Peer)
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = at(c.Client), at(c.Client)
	cfg.InitialCluster = c.Cluster
	cfg.QuotaBackendBytes = 4 << 30
	cfg.LogLevel, cfg.LogOutputs = "error", []string{"stderr"}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("start member %s: %w", c.Name, err)
	}
	defer etcd.Close()
	select {
	case <-ctx.Done():
		return nil
	case err := <-etcd.Err():
		return fmt.Errorf("member %s: %w", c.Name, err)
	}
}
