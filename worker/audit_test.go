// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
)

// An operator's order is audited with what it changed at once, in the same transaction: who,
// what, before, after, why. So is one that only touches a device.
func TestOrdersAreAudited(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", false)
	o := loaded(t, r, "h1", time.Minute)
	o.step(t.Context(), ha.Event{Kind: ha.EvEligible, Verdict: ha.Pass})
	if o.recRev == 0 {
		t.Fatal("nothing is on record before the order")
	}
	before := o.rec.State
	if _, err := o.order(t.Context(), ha.Order{Verb: ha.OrderConfirmOff, ID: "o1", By: "operator/ann", Second: "operator/bob", Reason: "burnt"}); err != nil {
		t.Fatal(err)
	}
	b := (*backend)(o.w)
	x := b.audit("host.identify", "operator/ann", "identify of host h1 was ordered", "")
	x.Host = "h1"
	if _, err := b.noted(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	all, err := b.Audits(t.Context(), "h1")
	if err != nil || len(all) != 2 {
		t.Fatalf("%d audits, %v", len(all), err)
	}
	if all[0].What != "host.identify" || len(all[0].Changes) != 0 {
		t.Errorf("%+v", all[0])
	}
	a := all[1]
	if a.Who != "operator/ann" || a.What != "host.confirm-off" || a.Reason != "burnt" || !strings.Contains(a.Message, "operator/bob") || a.Worker != "w1" {
		t.Errorf("%+v", a)
	}
	for _, c := range a.Changes {
		if c.Key == "hosts/h1/ha" && string(c.After["reason"]) != "" && string(c.Before["reason"]) != string(c.After["reason"]) {
			return
		}
	}
	t.Errorf("no change of the host's record, which was %s: %+v", before, a.Changes)
}
