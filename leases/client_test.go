// SPDX-License-Identifier: Apache-2.0

package leases_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
)

func TestDialSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	lis, err := net.Listen("tcp", "127.0.0.1:0") // bound, then freed: nobody listens
	if err != nil {
		t.Fatal(err)
	}
	lis.Close()
	dead := "http://" + lis.Addr().String()
	for _, tc := range []struct {
		name string
		conf leases.Config
		want []string
	}{
		{"none", leases.Config{}, []string{"endpoints"}},
		{"no scheme", leases.Config{Endpoints: []string{"127.0.0.1:2379"}}, []string{"127.0.0.1:2379", "http://"}},
		{"TLS would be dropped", leases.Config{Endpoints: []string{"http://a:1"}, TLS: &tls.Config{}}, []string{"http://a:1", "https://"}},
		{"TLS missing", leases.Config{Endpoints: []string{"https://a:1"}}, []string{"https://a:1"}},
		{"bad timeout", leases.Config{Endpoints: []string{dead}, DialTimeout: -1}, []string{"timeout"}},
		{"nobody there", leases.Config{Endpoints: []string{dead}, DialTimeout: 300 * time.Millisecond}, []string{dead, "refused"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := leases.Dial(t.Context(), tc.conf)
			if err == nil {
				c.Close()
				t.Fatal("dialled")
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
		})
	}
}

// Several pages are one consistent listing.
func TestListIsPagedAtOneRevision(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client(t)
	const keys = 5000 + 2
	var ops []leases.Op
	for n := range keys {
		ops = append(ops, leases.Put(leases.EventKey(fmt.Sprintf("e-%05d", n)), 1))
		if len(ops) == 128 || n == keys-1 {
			if _, err := c.Commit(t.Context(), leases.Unowned(), ops...); err != nil {
				t.Fatal(err)
			}
			ops = nil
		}
	}
	kvs, rev, err := c.List(t.Context(), leases.EventsPrefix)
	if err != nil || len(kvs) != keys || rev == 0 {
		t.Fatalf("%d keys at %d, %v", len(kvs), rev, err)
	}
	for n, kv := range kvs {
		if kv.Key != leases.EventKey(fmt.Sprintf("e-%05d", n)) || kv.ModRevision > rev {
			t.Fatalf("key %d is %s at %d", n, kv.Key, kv.ModRevision)
		}
	}
}

// leases.md §1: the number of slots is stored once and never changed.
func TestEnsureConfigCreatesOnce(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client(t)
	for range 2 {
		fleet, err := c.EnsureConfig(t.Context())
		if err != nil || fleet != (leases.Fleet{Slots: 1024, Generation: 1}) {
			t.Fatalf("%+v, %v", fleet, err)
		}
	}
	put(t, c, leases.ConfigSlotsKey(), `{"v":1,"slots":4096}`)
	put(t, c, leases.ConfigGenerationKey(), `{"v":1,"generation":3}`)
	if fleet, err := c.EnsureConfig(t.Context()); err != nil || fleet != (leases.Fleet{Slots: 4096, Generation: 3}) {
		t.Fatalf("%+v, %v", fleet, err)
	}
	put(t, c, leases.ConfigSlotsKey(), `{"v":1,"slots":0}`)
	if _, err := c.EnsureConfig(t.Context()); err == nil || !strings.Contains(err.Error(), "slots 0") {
		t.Fatalf("got %v", err)
	}
	if c.ClusterID() == 0 {
		t.Error("no cluster id")
	}
}

// Every call ends by its deadline, whatever the network does.
func TestReadsEndByTheirDeadline(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := etcdtest.NewProxy(t, srv.Addr())
	c := etcdtest.Dial(t, proxy.Endpoint())
	proxy.Hold(etcdtest.Both)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := c.Get(ctx, leases.ConfigSlotsKey())
	wantErr(t, err, context.DeadlineExceeded)
	proxy.Release()
	proxy.Delay(20 * time.Millisecond)
	start := time.Now()
	_, err = c.Get(t.Context(), leases.ConfigSlotsKey())
	wantErr(t, err, leases.ErrNotFound)
	if took := time.Since(start); took < 40*time.Millisecond {
		t.Errorf("a delay of 20 ms each way took %s", took)
	}
}

// The etcd client's own log ends in ours, its noise below info.
func TestEtcdClientLogsThroughSlog(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	var quiet bytes.Buffer
	c, err := leases.Dial(t.Context(), leases.Config{Endpoints: srv.Endpoints(), Logger: slog.New(slog.NewTextHandler(&quiet, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.EnsureConfig(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if quiet.Len() > 0 {
		t.Errorf("a healthy client logged %d bytes at info and above", quiet.Len())
	}
}
