// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	adoptTime  = 4 * time.Minute // until every host of a large fleet has its owner at work
	idlePing   = 10 * time.Second
	writers    = 4
	writeBatch = 120
)

// scale measures what leases.md §8 asks of 100,000 hosts: cold start, what a worker's
// death does to others' writes, and writes without anything to do.
func (b *bench) scale() {
	b.startWorkers()
	template := b.template()
	b.set("agent.ping.interval", idlePing.String())
	b.stopWorkers()

	var linked []string
	for i := range b.n.Linked {
		linked = append(linked, hostOf(i))
	}
	devices, stopBMCs := b.bmcs(linked[:min(len(linked), b.n.Agents)])
	defer stopBMCs()
	b.record(template, devices)
	b.cold()
	if wanted("scale") || wanted("stalls") {
		b.stalls()
	}
	if wanted("scale") || wanted("idle") {
		b.idle(linked)
	}
}

// scaleParts may be measured one by one; a cold start comes before each.
var scaleParts = []string{"cold", "stalls", "idle"}

func hostOf(i int) string { return fmt.Sprintf("h%05d", i) }

// templateHost is a host without an agent whose records are copied: they are what
// workers leave of a host that nothing happens to.
const (
	templateHost = "template-host"
	templatePath = "template-zone/template-pod/template-cluster"
)

// template lets workers write the records of one host, until they write no more.
func (b *bench) template() map[string]string {
	b.t.Helper()
	b.set("agent.ping.interval", pingInterval.String())
	if _, err := b.api.PutHost(b.t.Context(), v1.HostSpec{V: 1, ID: templateHost, Partition: templatePath, Provider: "kvm", Pools: []string{poolName}}, -1, false); err != nil {
		b.t.Fatal(err)
	}
	b.until(startTime, func() string {
		if len(b.get(leases.HostHAKey(templateHost))) == 0 {
			return "nobody has adopted " + templateHost
		}
		return ""
	})
	b.quiet(b.n.Settle, startTime)
	out := map[string]string{}
	for _, key := range []string{leases.HostHAKey(templateHost), leases.HostPowerKey(templateHost), leases.PartitionStateKey(templatePath)} {
		if v := b.get(key); v != "" {
			out[key] = v
		}
	}
	if err := b.api.DeleteHost(b.t.Context(), templateHost, -1); err != nil {
		b.t.Fatal(err)
	}
	return out
}

func (b *bench) get(key string) string {
	b.t.Helper()
	resp, err := b.data.Get(b.t.Context(), key)
	if err != nil {
		b.t.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		return ""
	}
	return string(resp.Kvs[0].Value)
}

// quiet waits until nothing was written for a while, or the limit is over; it reports
// which.
func (b *bench) quiet(d, limit time.Duration) bool {
	b.t.Helper()
	last, since := b.revision(), time.Now()
	for end := time.Now().Add(limit); time.Now().Before(end); {
		pass(d / 10)
		if now := b.revision(); now != last {
			last, since = now, time.Now()
		} else if time.Since(since) >= d {
			return true
		}
	}
	return false
}

func (b *bench) revision() int64 {
	b.t.Helper()
	resp, err := b.data.Get(b.t.Context(), floorPrefix)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.Header.Revision
}

// record puts all hosts on record: their declaration and what the template's owner left.
func (b *bench) record(template map[string]string, devices map[string]v1.Device) {
	b.t.Helper()
	puts := make(chan [2]string, 1000)
	work, ctx := errgroup.WithContext(b.t.Context())
	for range writers {
		work.Go(func() error {
			var ops []clientv3.Op
			flush := func() error {
				if len(ops) == 0 {
					return nil
				}
				_, err := b.data.Txn(ctx).Then(ops...).Commit()
				ops = nil
				return err
			}
			for kv := range puts {
				if ops = append(ops, clientv3.OpPut(kv[0], kv[1])); len(ops) == writeBatch {
					if err := flush(); err != nil {
						for range puts { // so that nobody waits
						}
						return err
					}
				}
			}
			return flush()
		})
	}
	for i := range b.n.Hosts {
		id, path := hostOf(i), partitionOf(i)
		power := "[]"
		if d, ok := devices[id]; ok {
			power = fmt.Sprintf(`[{"name":%q,"level":1,"driver":%q,"address":%q,"user":%q,"secret":%q}]`, d.Name, d.Driver, d.Address, d.User, d.Secret)
		}
		puts <- [2]string{leases.HostSpecKey(id), fmt.Sprintf(`{"v":1,"id":%q,"partition":%q,"provider":"kvm","labels":{"rack":"r%d"},"probes":["icmp://10.0.0.1"],"pools":[%q],"power":%s}`, id, path, i%500, poolName, power)}
		own := strings.NewReplacer(templateHost, id, templatePath, path)
		for key, value := range template {
			if !strings.HasPrefix(key, leases.PartitionsPrefix) || i%hostsPerDomain == 0 {
				puts <- [2]string{own.Replace(key), own.Replace(value)}
			}
		}
	}
	close(puts)
	if err := work.Wait(); err != nil {
		b.t.Fatal(err)
	}
}

// cold measures leases.md §8: "cold start, 100,000 hosts: nothing owned until all slots
// owned and state loaded" against one range over the hosts.
func (b *bench) cold() {
	b.t.Helper()
	b.observed(startTime, "left without owners", func() bool { return len(b.seen.slots) == 0 || b.restarting() })
	for key := range b.leftovers() { // what orderly ends keep for the next process
		if _, err := b.data.Delete(b.t.Context(), key); err != nil {
			b.t.Fatal(err)
		}
	}
	b.observed(startTime, "left without owners", func() bool { return len(b.seen.slots) == 0 && len(b.seen.workers) == 0 })
	ctx, cancel := context.WithTimeout(b.t.Context(), startTime)
	defer cancel()
	client, err := leases.Dial(ctx, leases.Config{Endpoints: b.endpoints})
	if err != nil {
		b.t.Fatal(err)
	}
	defer client.Close()
	keys := 0
	ranges := b.timed(3, func(ctx context.Context, _ int) error {
		kvs, _, err := client.List(ctx, leases.HostsPrefix)
		keys = len(kvs)
		return err
	})
	together := b.sideBySide(client)
	rev := b.revision()
	from, began := b.seen.mark(), time.Now()
	for _, w := range b.workers {
		w.start()
	}
	var m *meter // of the workers, too, from when they are there
	b.until(startTime, func() string {
		for _, w := range b.workers {
			if w.child() == 0 {
				return w.id + " has no child"
			}
		}
		m = b.meter(nil)
		return ""
	})
	var ready times
	for _, w := range b.workers {
		b.until(adoptTime, func() string {
			if !w.ready(b.t.Context()) {
				return w.id + " is not ready"
			}
			return ""
		})
		ready = append(ready, time.Since(began))
	}
	b.observed(startTime, "all owned after a cold start", func() bool { return len(b.seen.slots) == slotCount })
	used, owned := m.since(), time.Since(began)
	first, last := time.Duration(0), time.Duration(0)
	for _, c := range b.seen.since(from) {
		if _, ok := leases.SplitSlotKey(c.Key); ok && !c.Del && last < c.At.Sub(began) {
			if last = c.At.Sub(began); first == 0 {
				first = last
			}
			if len(b.slotsAsOf(from, c.At)) == slotCount {
				break // what follows is balancing
			}
		}
	}
	total := max(last, ready.max())
	b.adopted(adoptTime)
	adopted := time.Since(began)
	b.quiet(b.n.Settle/4, startTime)
	ratio := over(total, ranges.p50())
	b.report.add(row{
		What: fmt.Sprintf("cold start with %d host records: three processes start → all slots owned, all ready", b.n.Hosts), Target: "≤ 1.5 × one range over the records",
		Measured: fmt.Sprintf("%.0f ms = %.2f × %.0f ms", total.Seconds()*1000, ratio, ranges.p50().Seconds()*1000), Value: ratio, Limit: 1.5,
		Parts: []string{
			fmt.Sprintf("ready (copy of etcd complete, lease valid): %.0f, %.0f, %.0f ms; first slot claimed after %.0f ms, last after %.0f ms", ready.at(0).Seconds()*1000, ready.p50().Seconds()*1000, ready.max().Seconds()*1000, first.Seconds()*1000, last.Seconds()*1000),
			fmt.Sprintf("every host's owner at work after %.1f s; %d revisions were written for it", adopted.Seconds(), b.revision()-rev),
			fmt.Sprintf("the range: %d keys below hosts/, pages of 5,000, p50 of %d; each of the three workers does it, on the same cores: three such ranges at once, nothing decoded, take %.0f ms, and the cold start %.2f × that", keys, len(ranges), together.Seconds()*1000, over(total, together)),
			cores([]map[string]usage{used}, owned),
		},
		Why: whyCold,
	})
}

// sideBySide is how long as many ranges over the hosts take as there are workers, at once.
func (b *bench) sideBySide(client *leases.Client) time.Duration {
	b.t.Helper()
	began := time.Now()
	all, ctx := errgroup.WithContext(b.t.Context())
	for range b.workers {
		all.Go(func() error {
			_, _, err := client.List(ctx, leases.HostsPrefix)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		b.t.Fatal(err)
	}
	return time.Since(began)
}

// restarting: all that is left is suspended. The observer's lock is held.
func (b *bench) restarting() bool {
	for _, c := range b.seen.workers {
		if c.State != leases.Restarting {
			return false
		}
	}
	return true
}

// leftovers are the keys of suspended workers.
func (b *bench) leftovers() map[string]bool {
	b.seen.mu.Lock()
	defer b.seen.mu.Unlock()
	out := map[string]bool{}
	for n := range b.seen.slots {
		out[leases.SlotKey(n)] = true
	}
	for id := range b.seen.workers {
		out[leases.WorkerKey(id)] = true
	}
	return out
}

// slotsAsOf are the slots that were put between a mark and a time.
func (b *bench) slotsAsOf(mark int, at time.Time) map[string]bool {
	out := map[string]bool{}
	for _, c := range b.seen.since(mark) {
		if _, ok := leases.SplitSlotKey(c.Key); ok && !c.Del && !c.At.After(at) {
			out[c.Key] = true
		}
	}
	return out
}

// adopted waits until all hosts have their owner at work.
func (b *bench) adopted(limit time.Duration) {
	b.t.Helper()
	b.until(limit, func() string {
		n := 0
		for _, w := range b.workers {
			if w.alive() {
				n += w.hosts(b.t.Context())
			}
		}
		if n < b.n.Hosts {
			return fmt.Sprintf("%d of %d hosts are adopted", n, b.n.Hosts)
		}
		return ""
	})
}

// hosts is how many hosts a worker says it owns, 0 while it says nothing.
func (w *worker) hosts(ctx context.Context) (n int) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/metrics", nil)
	if err != nil {
		return 0
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if line := lines.Text(); strings.HasPrefix(line, "holdfast_resources{") {
			v, _ := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			n += int(v)
		}
	}
	return n
}

// stalls measures leases.md §8: "longest stop of anybody's write while a worker with
// 33,000 hosts is lost": somebody puts as fast as once a millisecond, through another
// connection; a quiet time of the same length is measured right before.
func (b *bench) stalls() {
	b.t.Helper()
	probe := b.client()
	var quiet, broken times
	var falls []fall
	var ratios []float64
	f := b.floored(func() {
		for i := range b.n.Falls {
			w := b.workers[i%len(b.workers)]
			calm := b.probe(probe, func() {})
			var x fall
			storm := b.probe(probe, func() { x = b.fall(w) })
			quiet, broken, falls = append(quiet, calm.max()), append(broken, storm.max()), append(falls, x)
			ratios = append(ratios, over(storm.max(), calm.max()))
			b.rejoin(w, &x)
			b.adopted(adoptTime)
			b.quiet(b.n.Settle/4, startTime)
		}
	})
	slices.Sort(ratios)
	ratio := ratios[len(ratios)/2]
	owned := b.n.Hosts / len(b.workers)
	b.report.add(row{
		What: fmt.Sprintf("longest stop of anybody's write while a worker with %d hosts dies, p50 of %d deaths", owned, len(ratios)), Target: "≤ 2 × the quiet maximum",
		Measured: fmt.Sprintf("%s = %.2f × %s", ms(broken.p50()), ratio, ms(quiet.p50())), Value: ratio, Limit: 2,
		Parts: []string{
			fmt.Sprintf("longest stops in %v: quiet %s; with a death %s", b.n.Window, list(quiet), list(broken)),
			"the time includes what the heirs do to adopt the hosts, on the same cores",
		},
		Why: whyStall,
	})
	all := pick(falls, func(x fall) time.Duration { return x.last })
	b.report.add(row{
		What: fmt.Sprintf("SIGKILL of a worker child that owns %d hosts until all its slots are owned again, p50", owned), Target: "≤ 3 × (P + X)",
		Measured: fmt.Sprintf("%s = %.2f × (%s)", ms(all.p50()), over(all.p50(), f.sum()), f), Value: over(all.p50(), f.sum()), Limit: 3,
		Parts: append(parts(falls), "each: "+list(all)), Why: whyCrowd,
	})
}

func list(all times) string {
	var out []string
	for _, d := range all {
		out = append(out, ms(d))
	}
	return strings.Join(out, ", ")
}

// probe times puts for as long as a window lasts, while something is done.
func (b *bench) probe(client *clientv3.Client, do func()) (out times) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), b.n.Window)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			began := time.Now()
			_, err := client.Put(b.t.Context(), floorPrefix+"probe", "x")
			out = append(out, time.Since(began))
			if err != nil {
				done <- err
				return
			}
			select {
			case <-ctx.Done():
				done <- nil
				return
			case <-tick.C:
			}
		}
	}()
	do()
	if err := <-done; err != nil {
		b.t.Fatal(err)
	}
	return out
}

// idle measures leases.md §8: "etcd writes per idle host".
func (b *bench) idle(linked []string) {
	b.t.Helper()
	agents, stop := b.agents(linked)
	defer stop()
	b.until(adoptTime, func() string {
		if n := agents.linked(2 * idlePing); n < len(linked) {
			return fmt.Sprintf("%d of %d agents are linked", n, len(linked))
		}
		return ""
	})
	// Whoever was not heard since the last takeover is noted as failing once its grace and
	// its pings are over; that belongs to the takeover.
	before := time.Now()
	settled := b.quiet(min(b.n.Idle, (misses+3)*idlePing), min(60*b.n.Idle, 5*startTime))
	calm := time.Since(before)
	entries, rev := b.raftIndex(), b.revision()
	pass(b.n.Idle)
	writes, entries := b.revision()-rev, b.raftIndex()-entries
	what := b.writtenSince(rev)
	late := 0
	for _, d := range agents.longest() {
		if d > 3*idlePing {
			late++
		}
	}
	perSecond := float64(writes) / b.n.Idle.Seconds()
	state := fmt.Sprintf("the fleet was quiet before, %.0f s after the last agent had its link", calm.Seconds())
	if !settled {
		state = fmt.Sprintf("**still settling**: %.0f s after the last agent had its link somebody still wrote", calm.Seconds())
	}
	b.report.add(row{
		What: fmt.Sprintf("etcd writes while %d hosts are idle, %d of them with a linked agent", b.n.Hosts, len(linked)), Target: "< 1 put/s in total",
		Measured: fmt.Sprintf("%d in %v = %.3g/s", writes, b.n.Idle, perSecond), Value: perSecond, Limit: 1,
		Parts: []string{
			fmt.Sprintf("%d Raft entries in the same time, lease renewals and the measuring included; %s", entries, state),
			fmt.Sprintf("%d agents ping every %v, %d of them have a BMC that is read; %d were unheard for 3 pings; what was written: %s", len(linked), idlePing, min(len(linked), b.n.Agents), late, what),
			fmt.Sprintf("writes that came from linked hosts would come %.0f times as often with all %d linked; that many agents were not run", float64(b.n.Hosts)/float64(len(linked)), b.n.Hosts),
		},
		Why: whyIdle,
	})
}

// raftIndex is how many entries Raft has applied.
func (b *bench) raftIndex() uint64 {
	b.t.Helper()
	resp, err := b.data.Status(b.t.Context(), b.endpoints[0])
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.RaftAppliedIndex
}

// writtenSince tells what kinds of keys were written after a revision and are still there.
func (b *bench) writtenSince(rev int64) string {
	b.t.Helper()
	resp, err := b.data.Get(b.t.Context(), leases.Root, clientv3.WithPrefix(), clientv3.WithMinModRev(rev+1), clientv3.WithLimit(1000))
	if err != nil {
		b.t.Fatal(err)
	}
	kinds := map[string]int{}
	for i, kv := range resp.Kvs {
		kind, _, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), leases.Root), "/")
		if _, part, ok := leases.SplitHostKey(string(kv.Key)); ok {
			kind += "/…/" + part
			if i < 100 { // that many tell what is going on
				kind += " " + b.changed(kv)
			}
		}
		kinds[kind]++
	}
	if len(kinds) == 0 {
		return "nothing that is still there"
	}
	return strings.TrimPrefix(fmt.Sprint(kinds), "map")
}

// changed names the fields that the last write of a record has changed.
func (b *bench) changed(kv *mvccpb.KeyValue) string {
	b.t.Helper()
	resp, err := b.data.Get(b.t.Context(), string(kv.Key), clientv3.WithRev(kv.ModRevision-1))
	if err != nil {
		b.t.Fatal(err)
	}
	var is, was map[string]json.RawMessage
	err = json.Unmarshal(kv.Value, &is)
	if err == nil && len(resp.Kvs) > 0 {
		err = json.Unmarshal(resp.Kvs[0].Value, &was)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for name := range is {
		if string(is[name]) != string(was[name]) {
			out = append(out, name)
		}
	}
	for name := range was {
		if _, ok := is[name]; !ok {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return "(" + strings.Join(out, ", ") + ")"
}
