// SPDX-License-Identifier: Apache-2.0

package sweep

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/sim/metal"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/power/ipmi"
)

// fault is one field of bmc.Faults at a value that hurts.
type fault struct {
	field string
	set   bmc.Faults
	// lossy: what frees the slot, or what says which slot it is, can get lost on the way.
	// The device then frees it by itself, when it has been silent for a minute.
	lossy bool
	// blind: no reading can succeed.
	blind bool
}

var faults = []fault{
	{"", bmc.Faults{}, false, false},
	{"Mute", bmc.Faults{Mute: true}, false, true},
	{"Delay", bmc.Faults{Delay: 40 * time.Millisecond}, true, false},
	{"Delay", bmc.Faults{Delay: 2 * time.Second}, true, true},
	{"Jitter", bmc.Faults{Jitter: 60 * time.Millisecond}, true, false},
	{"LoseRequests", bmc.Faults{LoseRequests: 30}, true, false},
	{"LoseAnswers", bmc.Faults{LoseAnswers: 30}, true, false},
	{"DuplicateAnswers", bmc.Faults{DuplicateAnswers: 100}, false, false},
	{"IgnoreCommands", bmc.Faults{IgnoreCommands: true}, false, false},
	{"SayOff", bmc.Faults{SayOff: true}, false, false},
	{"SayOn", bmc.Faults{SayOn: true}, false, false},
	{"OffReadings", bmc.Faults{OffReadings: 1}, false, false},
	{"SelfOnAfter", bmc.Faults{SelfOnAfter: 20 * time.Millisecond}, false, false},
	{"RejectSameState", bmc.Faults{RejectSameState: true}, false, false},
	{"Busy", bmc.Faults{Busy: 9}, false, false},
	{"BusyReads", bmc.Faults{BusyReads: 9}, false, true},
	{"EmptyBody", bmc.Faults{EmptyBody: true}, false, true},
	{"Initialising", bmc.Faults{Initialising: true}, false, true},
	{"NoSlots", bmc.Faults{NoSlots: true}, false, true},
	{"OrphanOpens", bmc.Faults{OrphanOpens: true, LoseAnswers: 30}, true, false},
	{"LockoutAfter", bmc.Faults{LockoutAfter: 1}, false, false},
	{"LockoutFor", bmc.Faults{LockoutAfter: 1, LockoutFor: time.Hour}, false, false},
	{"WrongIntegrity", bmc.Faults{WrongIntegrity: true}, false, true},
	{"Downgrade", bmc.Faults{Downgrade: true}, false, true},
	{"OtherGUID", bmc.Faults{OtherGUID: true}, false, true},
	{"Forged", bmc.Faults{Forged: 6}, false, false},
	{"Short", bmc.Faults{Short: 6}, false, false},
	{"BadPadding", bmc.Faults{BadPadding: 6}, false, false},
	{"Garbage", bmc.Faults{Garbage: 6}, false, false},
	{"Replayed", bmc.Faults{Replayed: 6}, false, false},
}

// operations are all that is done with a device; each opens and closes.
var operations = []struct {
	name string
	do   func(context.Context, power.Conn) error
}{
	{"nothing", func(context.Context, power.Conn) error { return nil }},
	{"status", func(ctx context.Context, c power.Conn) error {
		r, err := c.Status(ctx)
		if err != nil && r != (corepower.Reading{}) {
			return errors.Join(errFalse, err)
		}
		return err
	}},
	{"identity", func(ctx context.Context, c power.Conn) error { _, err := c.Identity(ctx); return err }},
	{"sessions", func(ctx context.Context, c power.Conn) error {
		s, ok := power.As[power.Sessions](c)
		if !ok {
			return errFalse
		}
		_, err := s.Sessions(ctx)
		return err
	}},
	{"off", func(ctx context.Context, c power.Conn) error {
		_, err := c.Do(ctx, power.Command{Verb: corepower.HardOff})
		return err
	}},
	{"on", func(ctx context.Context, c power.Conn) error {
		_, err := c.Do(ctx, power.Command{Verb: corepower.HardOn})
		return err
	}},
	{"reset", func(ctx context.Context, c power.Conn) error {
		_, err := c.Do(ctx, power.Command{Verb: corepower.Reset})
		return err
	}},
	{"identify", func(ctx context.Context, c power.Conn) error {
		_, err := c.Do(ctx, power.Command{Verb: corepower.Identify})
		return err
	}},
}

var errFalse = errors.New("an error came with a value")

// ends are the ways a caller stops waiting.
var ends = []struct {
	name  string
	bound func(context.Context) (context.Context, context.CancelFunc)
	limit time.Duration // when the whole must be over
}{
	// Open, one operation, each bounded by Limits.Command and Limits.Answer.
	{"limits", func(ctx context.Context) (context.Context, context.CancelFunc) { return context.WithCancel(ctx) }, limits.Command + limits.Command},
	{"deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
		return context.WithTimeout(ctx, 150*time.Millisecond)
	}, 150 * time.Millisecond},
	{"cancel", func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(30*time.Millisecond, cancel)
		return ctx, cancel
	}, 30 * time.Millisecond},
}

var limits = power.Limits{Packet: 150 * time.Millisecond, Answer: 400 * time.Millisecond, Command: 700 * time.Millisecond}

const slack = 250 * time.Millisecond

// TestEnds: every fault × operation × end of patience ends within 250 ms of its deadline,
// and leaves no goroutine, no socket and no session on the device behind (power.md §8).
func TestEnds(t *testing.T) {
	covered := map[string]bool{}
	for _, f := range faults {
		covered[f.field] = true
	}
	for i := range reflect.TypeFor[bmc.Faults]().NumField() {
		if name := reflect.TypeFor[bmc.Faults]().Field(i).Name; !covered[name] {
			t.Errorf("the table has no row for fault %s", name)
		}
	}
	n := len(faults) * len(operations) * len(ends)
	f, items, err := newFleet(n)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	opener := power.NewGate().For(ipmi.New(nil), power.Routine)
	type job struct {
		fault, operation, end int
		name                  string
		took                  time.Duration
		opened                bool
		err, closed           error
	}
	jobs := make([]job, n)
	for i := range jobs {
		j := &jobs[i]
		j.fault, j.operation, j.end = i%len(faults), i/len(faults)%len(operations), i/len(faults)/len(operations)
		j.name = fmt.Sprintf("%s %s, %s, %s", items[i].ID, faults[j.fault].field, operations[j.operation].name, ends[j.end].name)
		if err := f.Apply([]metal.Rule{{Selection: metal.Selection{Hosts: fmt.Sprint(i + 1)}, BMC: &faults[j.fault].set}}); err != nil {
			t.Fatal(err)
		}
	}
	before, files := goleak.IgnoreCurrent(), openFiles(t)

	late := lateness()
	var under sync.WaitGroup
	pool := make(chan struct{}, 8*runtime.GOMAXPROCS(0))
	for i := range jobs {
		pool <- struct{}{}
		target := targetOf(t, items[i])
		target.Limits = limits
		under.Go(func() {
			j := &jobs[i]
			ctx, cancel := ends[j.end].bound(context.Background())
			defer cancel()
			began := time.Now()
			c, err := opener.Open(ctx, target)
			if j.opened = err == nil; j.opened {
				err = operations[j.operation].do(ctx, c)
			}
			j.took, j.err = time.Since(began), err
			if c != nil {
				j.closed = c.Close(ctx) // its confirmation may be lost; what is left on the device is looked at below
			}
			<-pool
		})
	}
	under.Wait()
	stolen := late()
	for _, j := range jobs {
		if limit := ends[j.end].limit + slack + 4*stolen; j.took > limit {
			t.Errorf("%s: took %s, allowed %s", j.name, j.took, limit)
		}
		if errors.Is(j.err, errFalse) {
			t.Errorf("%s: %v", j.name, j.err)
		}
		if op := operations[j.operation].name; op == "status" && ends[j.end].name == "limits" && faults[j.fault].blind && j.err == nil {
			t.Errorf("%s: a reading succeeded", j.name)
		}
	}
	if err := goleak.Find(before); err != nil {
		t.Errorf("goroutines left behind: %v", err)
	}
	if n := openFiles(t); n > files {
		t.Errorf("%d files and sockets open, %d before", n, files)
	}
	// The last words of a connection may still be on their way.
	left := func() (out []string) {
		all, err := f.Status(metal.Selection{})
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range all {
			// Nobody knows the slot of a log-in that was broken off before its answer.
			brokenOff := !jobs[i].opened && ends[jobs[i].end].name != "limits"
			if s.Sessions > 0 && !faults[jobs[i].fault].lossy && !brokenOff {
				out = append(out, fmt.Sprintf("%s: %d sessions left on the device (ended with %v; close: %v)", jobs[i].name, s.Sessions, jobs[i].err, jobs[i].closed))
			}
		}
		return out
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	still := left()
	for deadline := time.Now().Add(2 * time.Second); len(still) > 0 && time.Now().Before(deadline); still = left() {
		<-tick.C
	}
	slices.Sort(still)
	if len(still) > 0 && stolen > 20*time.Millisecond && len(still) < n/50 {
		t.Logf("the machine held this process up for %s; not held against the driver: %v", stolen, still)
		still = nil
	}
	for _, s := range still {
		t.Error(s)
	}
}

// lateness watches how long the machine lets this process wait for its turn, which is no
// fault of what is tested. The function it returns ends the watch.
func lateness() func() time.Duration {
	done, worst := make(chan struct{}), make(chan time.Duration)
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		var most time.Duration
		for last := time.Now(); ; {
			select {
			case <-done:
				worst <- most
				return
			case <-tick.C:
				now := time.Now()
				most, last = max(most, now.Sub(last)-10*time.Millisecond), now
			}
		}
	}()
	return func() time.Duration { close(done); return <-worst }
}

func openFiles(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
