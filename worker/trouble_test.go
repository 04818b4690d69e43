// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/pki/pkitest"
)

// fleet is a worker with three hosts on an etcd that can be troubled.
type fleet struct {
	*rig
	cluster *etcdtest.Cluster
	proxy   *etcdtest.Proxy // between the worker and the first member, if wanted
	w       *Worker
	hosts   []string
}

func newFleet(t *testing.T, conf etcdtest.Config, ttl time.Duration, proxied bool) *fleet {
	t.Helper()
	c := etcdtest.StartCluster(t, conf)
	f := &fleet{rig: &rig{client: c.Client(t), endpoints: c.Endpoints(), ttl: ttl}, cluster: c, hosts: []string{"h1", "h2", "h3"}}
	if proxied {
		f.proxy = etcdtest.NewProxy(t, c.Addr(0))
		f.endpoints = []string{f.proxy.Endpoint()}
	}
	for _, h := range f.hosts {
		f.host(t, h, true)
	}
	f.w, _ = f.worker(t, "w1")
	beat(t, f.w, f.hosts...)
	eventually(t, "all hosts are AVAILABLE", func() bool { return f.all(t, ha.Available) })
	return f
}

func (f *fleet) all(t *testing.T, want ha.State) bool {
	for _, h := range f.hosts {
		if rec, _ := read[ha.Record](t, f.rig, leases.HostHAKey(h)); rec.State != want {
			return false
		}
	}
	return true
}

// page fetches a page of the worker's API.
func (f *fleet) page(t *testing.T, path string) string {
	t.Helper()
	resp, err := http.Get("http://" + f.w.apiAddr + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// warns reports whether a warning is shown to operators and to Prometheus.
func (f *fleet) warns(t *testing.T, code string) bool {
	return strings.Contains(f.page(t, "/v1/health"), `"code":"`+code+`"`) && strings.Contains(f.page(t, "/metrics"), `holdfast_health_warnings{code="`+code+`"`)
}

// epochs are the revisions of all slots as etcd has them.
func (f *fleet) epochs(t *testing.T) map[string]int64 {
	t.Helper()
	kvs, _, err := f.client.List(t.Context(), leases.SlotsPrefix)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	for _, kv := range kvs {
		out[kv.Key] = kv.ModRevision
	}
	return out
}

// seen: every host is owned here, and its owner hears it and has tested its power.
func (f *fleet) seen(t *testing.T) bool {
	for _, h := range f.hosts {
		sees := false
		err := f.w.live(t.Context(), h, func(_ context.Context, o *owner) {
			tested, _ := o.powerTested()
			sees = tested && o.live.alive() && o.live.eligible == ha.Pass
		})
		if err != nil || !sees {
			return false
		}
	}
	return true
}

// TestEtcdTroubles: whatever is wrong with etcd, effects stop in time, the worker says
// what it is by name, nobody is suspected because of it, and all goes on by itself when it
// is over. Slots are lost only where the lease is.
func TestEtcdTroubles(t *testing.T) {
	for name, x := range map[string]struct {
		conf    etcdtest.Config
		proxied bool
		cause   func(t *testing.T, f *fleet)
		warning leases.Trouble
		lose    bool // the lease ends, and with it all effects; else no slot is lost
		cure    func(t *testing.T, f *fleet)
	}{
		"no quorum": {
			cause:   func(_ *testing.T, f *fleet) { f.cluster.Stop(0); f.cluster.Stop(1) },
			warning: leases.NoLeader, lose: true,
			cure: func(t *testing.T, f *fleet) { f.cluster.Restart(t, 0, 1) },
		},
		"away": {
			cause:   func(_ *testing.T, f *fleet) { f.cluster.StopAll() },
			warning: leases.Unreachable, lose: true,
			cure: func(t *testing.T, f *fleet) { f.cluster.Restart(t, 0, 1, 2) },
		},
		"leader change": {
			cause: func(t *testing.T, f *fleet) {
				f.cluster.MoveLeader(t)
				lead := f.cluster.Leader(t)
				f.cluster.Stop(lead)
				f.cluster.Restart(t, lead)
			},
		},
		"member replaced": {
			cause: func(t *testing.T, f *fleet) { f.cluster.Replace(t, f.cluster.Leader(t)) },
		},
		"slow": {
			conf: etcdtest.Config{Election: 2 * time.Second}, // delays and a busy machine must not look like a dead leader
			cause: func(t *testing.T, f *fleet) {
				f.cluster.SlowCommits(300 * time.Millisecond)
				background(t, func(ctx context.Context) error { // a fleet where something happens
					for i := 0; i < 5 && ctx.Err() == nil; i++ {
						_ = f.w.client.RecordEnd(ctx, "w9", "b", leases.Expired, time.Time{}) // its time is what counts
					}
					return nil
				})
			},
			warning: leases.Slow,
			cure:    func(_ *testing.T, f *fleet) { f.cluster.SlowCommits(0) },
		},
		"full quota": {
			conf:    etcdtest.Config{Members: 1, Quota: 12 << 20},
			cause:   func(t *testing.T, f *fleet) { f.cluster.Fill(t) },
			warning: leases.NoSpace,
			cure:    func(t *testing.T, f *fleet) { f.cluster.MakeRoom(t) },
		},
		"rights taken away": {
			conf: etcdtest.Config{Members: 1},
			cause: func(t *testing.T, f *fleet) {
				raw := f.cluster.Raw(t)
				_, err := raw.UserAdd(t.Context(), "root", "pw")
				if err == nil {
					_, err = raw.UserGrantRole(t.Context(), "root", "root")
				}
				if err == nil {
					_, err = raw.AuthEnable(t.Context())
				}
				if err != nil {
					t.Fatal(err)
				}
			},
			warning: leases.Auth, lose: true,
			cure: func(t *testing.T, f *fleet) {
				root, err := clientv3.New(clientv3.Config{Endpoints: f.cluster.Endpoints(), Username: "root", Password: "pw"})
				if err == nil {
					defer root.Close()
					_, err = root.AuthDisable(t.Context())
				}
				if err != nil {
					t.Fatal(err)
				}
			},
		},
		"compaction under a watch": {
			conf: etcdtest.Config{Members: 1}, proxied: true,
			cause: func(t *testing.T, f *fleet) {
				f.proxy.Hold(etcdtest.Answers)
				f.host(t, "h4", true)
				f.hosts = append(f.hosts, "h4")
				raw := f.cluster.Raw(t)
				resp, err := raw.Put(t.Context(), "/other", "")
				if err == nil {
					_, err = raw.Compact(t.Context(), resp.Header.Revision)
				}
				if err != nil {
					t.Fatal(err)
				}
				f.proxy.Cut()
				f.proxy.Release()
				beat(t, f.w, "h4")
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ttl := 15 * time.Second // outlives any trouble that is not meant to cost the lease, also on a busy machine
			if x.lose {
				ttl = minTTL
			}
			f := newFleet(t, x.conf, ttl, x.proxied)
			before := f.epochs(t)
			from, err := f.client.Revision(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			f.w.mu.Lock()
			s := f.w.session
			f.w.mu.Unlock()

			x.cause(t, f)
			if x.warning != "" {
				eventually(t, "the warning "+string(x.warning), func() bool { return f.warns(t, string(x.warning)) })
			}
			if x.lose {
				eventually(t, "the lease is over", func() bool { return !s.Valid(0) })
				eventually(t, "nothing is owned", func() bool { f.w.mu.Lock(); defer f.w.mu.Unlock(); return len(f.w.owners) == 0 })
				if _, err := (*backend)(f.w).Order(t.Context(), "me", "h1", v1.OrderRequest{Verb: "off"}); err == nil {
					t.Error("an order was taken without a lease")
				}
			}
			if x.cure != nil {
				x.cure(t, f)
			}
			eventually(t, "all warnings are gone", func() bool { return len(f.w.health.list()) == 0 })
			eventually(t, "the worker sees all its hosts", func() bool { return f.seen(t) })
			eventually(t, "all hosts are AVAILABLE", func() bool { return f.all(t, ha.Available) })
			var news []string
			for _, n := range f.events(t, from) {
				if !strings.Contains(n, " h4 ") && !strings.Contains(n, "members") && !ofWorkers(n) {
					news = append(news, n)
				}
			}
			if len(news) > 0 {
				t.Errorf("the trouble was news of hosts:\n%s", strings.Join(news, "\n"))
			}
			if after := f.epochs(t); !x.lose && !maps.Equal(before, after) {
				t.Errorf("slots were lost: %d of %d have another epoch", changed(before, after), len(before))
			}
		})
	}
}

func changed(a, b map[string]int64) (n int) {
	for k, v := range a {
		if b[k] != v {
			n++
		}
	}
	return n
}

// TestNoLeaseShorterThanAPacket: under a lease that is never certain for a whole packet no
// packet would ever leave; it is refused, not accepted and useless.
func TestNoLeaseShorterThanAPacket(t *testing.T) {
	o := Options{ID: "w1", Etcd: []string{"http://127.0.0.1:1"}, InsecureLoopback: true, LeaseTTL: 2 * time.Second}
	if _, err := New(o); !errors.Is(err, ErrOptions) || !strings.Contains(err.Error(), "leaseTTL") {
		t.Errorf("a lease of 2s: %v", err)
	}
	r := newRig(t)
	s, err := r.client.OpenSession(t.Context(), leases.SessionConfig{Worker: "w1", Boot: "b", TTL: minTTL})
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(s.Deadline()) - minTTL/5; left <= 2*time.Second {
		t.Errorf("right before the first renewal a lease of %v is certain for %v", minTTL, left)
	}
}

// TestNoPacketWithoutQuorum: power commands under way when the quorum is lost end with the
// lease: no device receives one after that (leases.md §3.2).
func TestNoPacketWithoutQuorum(t *testing.T) {
	t.Parallel()
	f := newFleet(t, etcdtest.Config{}, minTTL, false)
	for i, b := range f.bmcs { // slower and slower, so that they are at different steps
		faults := b.Faults()
		faults.Delay = time.Duration(50+150*i) * time.Millisecond
		if err := b.SetFaults(faults); err != nil {
			t.Fatal(err)
		}
	}
	var orders sync.WaitGroup
	defer orders.Wait()
	for _, h := range f.hosts {
		orders.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			_, _ = (*backend)(f.w).Order(ctx, "me", h, v1.OrderRequest{Verb: "off"}) // what the devices saw is what counts
		})
	}
	eventually(t, "a device received a command", func() bool { return len(f.bmcs[0].Truth()) > 0 })
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		f.cluster.Stop(0)
		f.cluster.Stop(1)
	}()
	// Of the last session: while the first member stops, one may be lost and another one had.
	var s *leases.Session
	eventually(t, "the lease is over", func() bool {
		f.w.mu.Lock()
		defer f.w.mu.Unlock()
		if f.w.session != nil {
			s = f.w.session
		}
		select {
		case <-stopped:
			return s != nil && !s.Valid(0)
		default:
			return false
		}
	})
	end := s.Deadline()
	eventually(t, "nothing is owned", func() bool { f.w.mu.Lock(); defer f.w.mu.Unlock(); return len(f.w.owners) == 0 })
	eventually(t, "a packet would have come by now", func() bool { return time.Since(end) > 3*time.Second })
	for _, b := range f.bmcs {
		for _, x := range b.Truth() {
			if x.At.After(end) {
				t.Errorf("%s received %s %v after the end of the lease", x.BMC, x.Verb, x.At.Sub(end))
			}
		}
	}
	f.cluster.Restart(t, 0, 1)
	eventually(t, "all warnings are gone", func() bool { return len(f.w.health.list()) == 0 })
	eventually(t, "each order is carried out", func() bool {
		for _, b := range f.bmcs {
			if len(b.Truth()) == 0 {
				return false
			}
		}
		return true
	})
}

// TestCertificateRefused: an etcd that takes this worker from its list is named, and all
// goes on when it is back on it (leases.md §5, auth).
func TestCertificateRefused(t *testing.T) {
	t.Parallel()
	lab := pkitest.New(t)
	member := lab.Issue(t, pkitest.Etcd, "etcd-1")
	etcd := etcdtest.StartTLS(t, etcdtest.TLS{CA: member.CA, Cert: member.Cert, Key: member.Key, AllowedCNs: []string{"w1"}})
	w, err := New(Options{ID: "w1", Etcd: etcd.Endpoints(), TLS: lab.Issue(t, trust.Worker, "w1"), ListenAPI: "127.0.0.1:0", ListenAgents: "127.0.0.1:0", LeaseTTL: minTTL, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	background(t, w.Run)
	ready := func() bool { return (*backend)(w).Ready() == nil && len(w.health.list()) == 0 }
	api := func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.session != nil }
	eventually(t, "the worker is a member", api)
	eventually(t, "the worker is ready", ready)
	etcd.Allow(t, "somebody-else")
	eventually(t, "the warning EtcdAuth", func() bool { return severityOf(w, string(leases.Auth)) == "critical" })
	eventually(t, "the lease is over", func() bool { return (*backend)(w).Ready() != nil })
	etcd.Allow(t, "w1")
	eventually(t, "the worker is ready again", ready)
}

// TestNothingIsArmedBlind: without a fresh word from etcd no guard report allows anything
// (leases.md §5).
func TestNothingIsArmedBlind(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", false)
	o := loaded(t, r, "h1", time.Minute)
	if snap := o.snapshot(t.Context(), guard.Confirm, placeReady{}); !snap.Gathered {
		t.Fatalf("snapshot: %+v", snap)
	}
	r.etcd.Stop()
	snap := o.snapshot(t.Context(), guard.Confirm, placeReady{})
	if snap.Gathered || guard.Evaluate(snap).Allowed() {
		t.Errorf("guards allow with an etcd that is away: %+v", snap)
	}
	eventually(t, "the worker takes its copy for stale", func() bool { return o.w.mirror.Age() > readAgeLimit })
	if s := o.w.self(o.now()); s.ReadAge <= s.ReadAgeLimit {
		t.Errorf("self: %+v", s)
	}
}
