// SPDX-License-Identifier: Apache-2.0

package etcdtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/holdfast-ha/holdfast/leases"
)

// Config says what kind of cluster a test wants.
type Config struct {
	Members  int           // default 3
	Quota    int64         // --quota-backend-bytes; 0 is etcd's default
	Election time.Duration // a follower that heard no leader for so long stands for election; default 500 ms
}

// Cluster is an embedded etcd of several members that speak to each other through
// proxies. With the default Election, leases of one second and more are granted as asked;
// etcd grants none shorter than 1.5 of it.
type Cluster struct {
	conf    Config
	token   string
	members []*member
}

type member struct {
	name, dir    string
	client, peer string // host:port it listens on
	proxy        *Proxy // what the others know as its peer address
	etcd         *embed.Etcd
}

// StartCluster starts all members with empty data and waits until they serve.
func StartCluster(t testing.TB, conf Config) *Cluster {
	t.Helper()
	if conf.Members == 0 {
		conf.Members = 3
	}
	if conf.Election == 0 {
		conf.Election = 500 * time.Millisecond
	}
	c := &Cluster{conf: conf, token: "first"}
	for i := range conf.Members {
		m := &member{name: fmt.Sprintf("m%d", i), dir: t.TempDir(), client: FreeAddr(t), peer: FreeAddr(t)}
		m.proxy = NewProxy(t, m.peer)
		c.members = append(c.members, m)
	}
	t.Cleanup(c.StopAll)
	c.startAll(t)
	return c
}

// FreeAddr is a loopback address that nothing listens on, and that whoever was stopped
// finds free again: it has an IP address of its own, so no port that somebody else is given
// meanwhile is its.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 128+rand.N(127), rand.N(256), 1+rand.N(254)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (c *Cluster) startAll(t testing.TB) {
	t.Helper()
	for i := range c.members {
		c.begin(t, i, embed.ClusterStateFlagNew)
	}
	for i := range c.members {
		c.ready(t, i)
	}
}

func (c *Cluster) initial() string {
	var all []string
	for _, m := range c.members {
		all = append(all, m.name+"="+m.proxy.Endpoint())
	}
	return strings.Join(all, ",")
}

func (c *Cluster) begin(t testing.TB, i int, state string) {
	t.Helper()
	m := c.members[i]
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = m.name, m.dir
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: m.peer}}, []url.URL{{Scheme: "http", Host: m.proxy.lis.Addr().String()}}
	cfg.ListenClientUrls = []url.URL{{Scheme: "http", Host: m.client}}
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	cfg.InitialCluster, cfg.InitialClusterToken, cfg.ClusterState = c.initial(), c.token, state
	cfg.UnsafeNoFsync = true
	cfg.TickMs, cfg.ElectionMs = 50, uint(c.conf.Election.Milliseconds())
	cfg.QuotaBackendBytes = c.conf.Quota
	cfg.StrictReconfigCheck = false // a member is replaced while its old self is down
	cfg.LogLevel = "fatal"
	cfg.LogOutputs = []string{"stderr"}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatalf("start etcd member %s: %v", m.name, err)
	}
	m.etcd = etcd
}

func (c *Cluster) ready(t testing.TB, i int) {
	t.Helper()
	m := c.members[i]
	select {
	case <-m.etcd.Server.ReadyNotify():
	case err := <-m.etcd.Err():
		t.Fatalf("start etcd member %s: %v", m.name, err)
	case <-time.After(startTimeout):
		t.Fatalf("etcd member %s is not ready after %s", m.name, startTimeout)
	}
}

// Stop ends a member; its data stays. Idempotent.
func (c *Cluster) Stop(i int) {
	if m := c.members[i]; m.etcd != nil {
		m.etcd.Close()
		m.etcd = nil
	}
}

// StopAll ends all members.
func (c *Cluster) StopAll() {
	for i := range c.members {
		c.Stop(i)
	}
}

// Restart starts stopped members again, on the same addresses and data, and waits until
// they serve: start as many at once as a quorum needs.
func (c *Cluster) Restart(t testing.TB, which ...int) {
	t.Helper()
	for _, i := range which {
		c.Stop(i)
		c.begin(t, i, embed.ClusterStateFlagNew)
	}
	for _, i := range which {
		c.ready(t, i)
	}
}

// Replace takes a member out of the cluster and puts a new one with empty data in its
// place, on the same client address: what happens when its machine is replaced.
func (c *Cluster) Replace(t testing.TB, i int) {
	t.Helper()
	m := c.members[i]
	id := uint64(m.etcd.Server.MemberID())
	c.Stop(i)
	raw := c.Raw(t, (i+1)%len(c.members))
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	if _, err := raw.MemberRemove(ctx, id); err != nil {
		t.Fatalf("remove etcd member %s: %v", m.name, err)
	}
	m.name, m.dir, m.peer = m.name+"x", t.TempDir(), FreeAddr(t)
	m.proxy = NewProxy(t, m.peer)
	if _, err := raw.MemberAdd(ctx, []string{m.proxy.Endpoint()}); err != nil {
		t.Fatalf("add etcd member %s: %v", m.name, err)
	}
	c.begin(t, i, embed.ClusterStateFlagExisting)
	c.ready(t, i)
}

// Leader is the index of the leader; it waits until there is one.
func (c *Cluster) Leader(t testing.TB) int {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(startTimeout); ; {
		for i, m := range c.members {
			if m.etcd != nil && m.etcd.Server.Leader() == m.etcd.Server.MemberID() {
				return i
			}
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("no leader within %s", startTimeout)
		}
	}
}

// MoveLeader hands leadership to another member.
func (c *Cluster) MoveLeader(t testing.TB) {
	t.Helper()
	from := c.Leader(t)
	to := c.members[(from+1)%len(c.members)].etcd.Server.MemberID()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	lead := c.members[from].etcd.Server
	if err := lead.MoveLeader(ctx, uint64(lead.MemberID()), uint64(to)); err != nil {
		t.Fatalf("move etcd leader: %v", err)
	}
}

// SlowCommits lets each frame between members wait so long: an entry is committed two
// delays after the leader got it, as if the disks of its followers took that long. Keep
// it far below Config.Election: members that elect anew all the time renew no lease.
func (c *Cluster) SlowCommits(d time.Duration) {
	for _, m := range c.members {
		m.proxy.Delay(d)
	}
}

// Fill writes until the quota is used up and etcd refuses everything with NOSPACE.
func (c *Cluster) Fill(t testing.TB) {
	t.Helper()
	raw := c.Raw(t)
	chunk := strings.Repeat("x", 256<<10)
	for n := range 1000 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := raw.Put(ctx, fmt.Sprintf("/fill/%d", n%4), chunk)
		cancel()
		if err != nil && strings.Contains(err.Error(), "space exceeded") {
			return
		}
	}
	t.Fatal("etcd did not run out of space")
}

// MakeRoom is what an operator does about NOSPACE: compact, defragment, disarm.
func (c *Cluster) MakeRoom(t testing.TB) {
	t.Helper()
	raw := c.Raw(t)
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	resp, err := raw.Get(ctx, "/", clientv3.WithCountOnly())
	if err == nil {
		_, err = raw.Compact(ctx, resp.Header.Revision, clientv3.WithCompactPhysical())
	}
	for _, e := range c.Endpoints() {
		if err == nil {
			_, err = raw.Defragment(ctx, e)
		}
	}
	if err == nil {
		_, err = raw.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	}
	if err != nil {
		t.Fatalf("make room in etcd: %v", err)
	}
}

// Snapshot saves the data as `etcdctl snapshot save` does and returns the file.
func (c *Cluster) Snapshot(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "backup.db")
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	lead := c.members[c.Leader(t)]
	if _, err := snapshot.NewV3(zap.NewNop()).Save(ctx, clientv3.Config{Endpoints: []string{"http://" + lead.client}}, file); err != nil {
		t.Fatalf("save snapshot: %v", err)
	}
	return file
}

// Restore says how a snapshot is restored.
type Restore struct {
	BumpRevision uint64 // --bump-revision with --mark-compacted; 0: without both
	Token        string // another --initial-cluster-token gives another cluster id; "": the same
}

// Restore stops all members and starts them on the data of a snapshot, restored as
// `etcdutl snapshot restore` does on each of them, at the same addresses.
func (c *Cluster) Restore(t testing.TB, file string, r Restore) {
	t.Helper()
	c.StopAll()
	if r.Token != "" {
		c.token = r.Token
	}
	for _, m := range c.members {
		m.dir = filepath.Join(t.TempDir(), "data")
		err := snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
			SnapshotPath: file, Name: m.name, OutputDataDir: m.dir, PeerURLs: []string{m.proxy.Endpoint()},
			InitialCluster: c.initial(), InitialClusterToken: c.token, RevisionBump: r.BumpRevision, MarkCompacted: r.BumpRevision > 0,
		})
		if err != nil {
			t.Fatalf("restore etcd member %s: %v", m.name, err)
		}
	}
	c.startAll(t)
}

// Endpoints of all members, as leases.Config takes them.
func (c *Cluster) Endpoints() (out []string) {
	for _, m := range c.members {
		out = append(out, "http://"+m.client)
	}
	return out
}

// Addr is the client address of a member, host:port: the target of a Proxy.
func (c *Cluster) Addr(i int) string { return c.members[i].client }

// Client dials all members; the test closes it at its end.
func (c *Cluster) Client(t testing.TB) *leases.Client {
	t.Helper()
	return Dial(t, c.Endpoints()...)
}

// Raw gives a bare etcd client to all members, or to some.
func (c *Cluster) Raw(t testing.TB, only ...int) *clientv3.Client {
	t.Helper()
	ends := c.Endpoints()
	if len(only) > 0 {
		ends = nil
		for _, i := range only {
			ends = append(ends, "http://"+c.members[i].client)
		}
	}
	return rawClient(t, ends)
}
