// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

const etcdStart = 20 * time.Second

// startEtcd starts an etcd member inside this process, on a free loopback port, and
// waits until it serves. Data that is thrown away at the end is not synced to disk.
func startEtcd(ctx context.Context, dir string, temp bool) (*embed.Etcd, error) {
	free := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = "dev", dir
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = free, free
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = free, free
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.UnsafeNoFsync = temp
	cfg.TickMs, cfg.ElectionMs = 10, 100 // a single member has nobody to lose an election to
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = "periodic", "10m"
	cfg.LogLevel, cfg.LogOutputs = "fatal", []string{"stderr"}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, etcdStart, fmt.Errorf("not ready after %v", etcdStart))
	defer cancel()
	select {
	case <-etcd.Server.ReadyNotify():
		return etcd, nil
	case err = <-etcd.Err():
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	etcd.Close()
	return nil, fmt.Errorf("start etcd: %w", err)
}
