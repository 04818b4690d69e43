// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"io"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

// none is shunned.
func none(string) bool { return false }

// A worker that could not stand by is asked after the others, and not later.
func TestShunnedIsAskedLast(t *testing.T) {
	list, shunned := []string{"a:1", "b:1", "c:1"}, func(address string) bool { return address == "b:1" }
	r := route{last: "a:1"}
	var went []string
	for range 4 {
		went = append(went, r.next(list, shunned))
		r.after(ending{err: io.EOF}, time.Second, 0)
	}
	r.tried = 0 // linked again
	went = append(went, r.next(list, shunned))
	if got, want := fmt.Sprint(went), "[c:1 a:1 b:1 c:1 a:1]"; got != want {
		t.Errorf("went to %s, want %s", got, want)
	}
	if got := r.next(list, func(string) bool { return true }); got != "b:1" {
		t.Errorf("all are shunned: went to %s, want b:1", got)
	}
}

// How an attempt ends decides where the next goes, and when.
func TestRoute(t *testing.T) {
	list := []string{"a:1", "b:1", "c:1"}
	retry := 500 * time.Millisecond
	refused := func(reason agentpb.Refusal_Reason, owner string, ms int64) ending {
		return ending{refusal: &agentpb.Refusal{Reason: reason, Owner: &agentpb.Worker{Address: owner}, RetryAfterMs: ms}}
	}
	lost, broken := ending{welcomed: true, err: io.EOF}, ending{err: io.EOF}
	for _, c := range []struct {
		name string
		ends []ending
		next []string // where each attempt goes, one more than ends
		wait time.Duration
	}{
		{"in order, and round", []ending{broken, broken, broken}, []string{"a:1", "b:1", "c:1", "a:1"}, 2 * time.Second},
		{"back-off is bounded", []ending{broken, broken, broken, broken, broken, broken, broken, broken, broken, broken}, nil, maxBackoff},
		{"a lost session begins anew", []ending{broken, broken, broken, lost}, nil, 2 * minBackoff},
		{"nobody owns it", []ending{refused(agentpb.Refusal_NO_OWNER, "", 0)}, []string{"a:1", "b:1"}, retry * 12 / 10},
		{"the worker says when", []ending{refused(agentpb.Refusal_UNKNOWN_HOST, "", 2000)}, nil, 2400 * time.Millisecond},
		{"the worker says too late", []ending{refused(agentpb.Refusal_UNKNOWN_HOST, "", 1<<62)}, nil, maxBackoff * 12 / 10},
		{"redirect", []ending{refused(agentpb.Refusal_NOT_OWNER, "x:9", 0)}, []string{"a:1", "x:9"}, 0},
		{"the owner is gone", []ending{refused(agentpb.Refusal_NOT_OWNER, "b:1", 0), broken}, []string{"a:1", "b:1", "c:1"}, 2 * minBackoff},
		{"bad redirect", []ending{refused(agentpb.Refusal_NOT_OWNER, "x", 0)}, []string{"a:1", "b:1"}, retry * 12 / 10},
		{"redirects in a circle", []ending{refused(agentpb.Refusal_NOT_OWNER, "b:1", 0), refused(agentpb.Refusal_NOT_OWNER, "a:1", 0),
			refused(agentpb.Refusal_NOT_OWNER, "b:1", 0), refused(agentpb.Refusal_NOT_OWNER, "a:1", 0)}, nil, retry * 12 / 10},
		{"another process speaks for the host", []ending{refused(agentpb.Refusal_REPLACED, "", 0)}, nil, replacedBackoff * 12 / 10},
		{"this process itself, over another stream", []ending{refused(agentpb.Refusal_REPLACED, "", 100)}, nil, 120 * time.Millisecond},
		{"blind, and the next is asked at once", []ending{refused(agentpb.Refusal_BLIND, "", 60_000)}, []string{"a:1", "b:1"}, blindPause * 5 / 4},
		{"all are blind", []ending{refused(agentpb.Refusal_BLIND, "", 0), refused(agentpb.Refusal_BLIND, "", 0), refused(agentpb.Refusal_BLIND, "", 0)},
			[]string{"a:1", "b:1", "c:1", "a:1"}, 2 * minBackoff},
		{"bad hello", []ending{refused(agentpb.Refusal_BAD_HELLO, "", 0)}, nil, maxBackoff * 12 / 10},
	} {
		var r route
		var went []string
		var wait time.Duration
		for _, e := range c.ends {
			went = append(went, r.next(list, none))
			wait = r.after(e, retry, 1)
		}
		went = append(went, r.next(list, none))
		if c.next != nil && fmt.Sprint(went) != fmt.Sprint(c.next) {
			t.Errorf("%s: went to %v, want %v", c.name, went, c.next)
		}
		if wait != c.wait {
			t.Errorf("%s: waits %v at most, want %v", c.name, wait, c.wait)
		}
	}
}

// Workers that hang, as paused ones do, are given up one by one before this host is missed:
// a new owner waits 2 intervals + 2 s, and 3 pings; after a round all get more time.
func TestPatience(t *testing.T) {
	for _, c := range []struct {
		halfOpen       time.Duration
		failures, want int // workers are three; seconds
	}{
		{3 * time.Second, 0, 3}, {3 * time.Second, 2, 3}, {3 * time.Second, 3, 6}, {3 * time.Second, 30, 20},
		{11 * time.Second, 0, 5}, {11 * time.Second, 6, 20},
	} {
		r := route{failures: c.failures}
		if got := r.patience(c.halfOpen, 3); got != time.Duration(c.want)*time.Second {
			t.Errorf("after %d failures, with links given up in %v: %v, want %ds", c.failures, c.halfOpen, got, c.want)
		}
	}
}

// Whatever workers say, the agent goes on, at a bounded pace.
func TestRouteNeverStopsAndNeverHammers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r route
		now := 0 // attempts in a row without a wait
		for range 50 {
			if r.next([]string{"a:1", "b:1"}, none) == "" {
				t.Fatal("no address")
			}
			e := ending{welcomed: rapid.Bool().Draw(t, "welcomed"), err: io.EOF}
			if rapid.Bool().Draw(t, "refused") {
				e.refusal = &agentpb.Refusal{
					Reason:       agentpb.Refusal_Reason(rapid.IntRange(0, 9).Draw(t, "reason")),
					Owner:        &agentpb.Worker{Address: rapid.SampledFrom([]string{"", "x", "c:3"}).Draw(t, "owner")},
					RetryAfterMs: rapid.Int64().Draw(t, "after"),
				}
			}
			wait := r.after(e, 500*time.Millisecond, rapid.Float64Range(0, 0.999).Draw(t, "jitter"))
			if wait < 0 || wait > replacedBackoff*12/10 {
				t.Fatalf("waits %v", wait)
			}
			if now++; wait > 0 {
				now = 0
			}
			if now > maxHops {
				t.Fatalf("%d attempts without a wait", now)
			}
		}
	})
}
