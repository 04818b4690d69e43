// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/leases"
)

const (
	etcdLook      = time.Second     // how often etcd is asked how it is
	etcdLookLimit = 2 * time.Second // for the answer
)

// etcdAdvice says what each trouble of etcd means and what to do.
var etcdAdvice = map[leases.Trouble]struct{ severity, text string }{
	leases.Unreachable: {"critical", "no member of etcd answers, so nothing is started and this worker's slots end with its lease: see that etcd runs and that its client ports can be reached from here"},
	leases.NoLeader:    {"critical", "etcd has no leader and takes no writes, so nothing is started and this worker's slots end with its lease: start enough of its members for a majority"},
	leases.Slow:        {"warning", "etcd answers so late that leases may run out: look at its disks and at the network between its members"},
	leases.Auth:        {"critical", "etcd and this worker do not trust each other, so nothing is started and its slots end with its lease: renew the certificate at fault, or give the worker its rights in etcd back"},
	leases.NoSpace:     {"critical", "etcd's quota is used up and it refuses every write, so nothing is decided or done: compact, defragment each member, then `etcdctl alarm disarm`"},
	leases.LowSpace:    {"warning", "more than half of etcd's quota is used: compact and defragment, or raise --quota-backend-bytes"},
}

// Warnings that are this worker's own conclusions.
const (
	etcdStale    = "EtcdStale"    // the copy of etcd is too old to act on
	etcdWentBack = "EtcdWentBack" // agents have seen newer owners than etcd knows
	noLease      = "NoLease"      // this worker is no member of the fleet
)

// watchEtcd asks etcd every second how it is and keeps the warnings about it true.
func (w *Worker) watchEtcd(ctx context.Context) error {
	t := time.NewTicker(etcdLook)
	defer t.Stop()
	var unready time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		unready = w.warnUnready(unready, time.Now())
		if age := w.mirror.Age(); age > readAgeLimit {
			w.health.set(etcdStale, "critical", fmt.Sprintf("the last word from etcd is %v old, so no new action is started and the fleet goes on as it is: see the other warnings about etcd", age.Round(time.Second)))
		} else {
			w.health.clear(etcdStale)
		}
		w.forgetFrozen()
		look, cancel := context.WithTimeout(ctx, etcdLookLimit)
		found := w.client.Examine(look)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		is := map[leases.Trouble]string{}
		for _, f := range found {
			is[f.Trouble] = f.Detail
		}
		for trouble, advice := range etcdAdvice {
			if detail, troubled := is[trouble]; troubled {
				w.health.set(string(trouble), advice.severity, advice.text+" ("+detail+")")
			} else {
				w.health.clear(string(trouble))
			}
		}
	}
}
