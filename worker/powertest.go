// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	wpower "github.com/holdfast-ha/holdfast/worker/power"
)

// depth is the deepest step of a power test that was passed (power.md §9.4).
type depth int

const (
	depthNone      depth = iota - 1 // not even reached
	depthReach                      // something answers
	depthLogin                      // our credential is accepted
	depthStatus                     // the power state can be read
	depthIdentity                   // it is the enrolled box
	depthPrivilege                  // we may command it: it blinked for a second
)

var depthNames = [...]string{"reach", "log in", "status", "identity", "privilege"}

// testDevice goes through the steps of a power test, nothing of which switches anything,
// and tells what each of them gave.
func (w *Worker) testDevice(ctx context.Context, opener wpower.Opener, t target, r *deviceReading) {
	r.depth = depthNone
	passed := func(d depth, format string, args ...any) {
		r.depth = d
		r.steps = append(r.steps, fmt.Sprintf("%d %s: ", d, depthNames[d])+fmt.Sprintf(format, args...))
	}
	failed := func(d depth, err error) {
		if r.testErr = err; d < depthPrivilege {
			r.err = err
		}
		r.steps = append(r.steps, fmt.Sprintf("%d %s: %v", d, depthNames[d], err))
	}
	conn, err := opener.Open(ctx, t.Target)
	if err != nil {
		switch at := openDepth(wpower.KindOf(err)); at {
		case depthIdentity: // it is another box: nothing it says is wanted
			passed(depthLogin, "passed")
			failed(at, err)
		case depthLogin:
			passed(depthReach, "passed")
			failed(at, err)
		default:
			failed(at, err)
		}
		return
	}
	defer closeConn(ctx, conn)
	passed(depthReach, "passed")
	passed(depthLogin, "passed")
	if r.reading, r.err = conn.Status(ctx); r.err != nil {
		failed(depthStatus, r.err)
		return
	}
	passed(depthStatus, "reads %s%s", r.reading.State, unproven(r.reading))
	if r.identity, err = conn.Identity(ctx); err != nil {
		failed(depthIdentity, err)
		return
	}
	err = w.answersForTwo(t.Host, t.device, r.identity)
	switch {
	case err != nil:
		failed(depthIdentity, err)
		return
	case t.Pinned == (power.Identity{}):
		passed(depthIdentity, "%s, pinned from now on", identityWords(r.identity))
	case !t.Pinned.Matches(r.identity):
		failed(depthIdentity, &wpower.Error{Kind: power.IdentityMismatch, Op: "compare identity of " + t.Address,
			Detail: fmt.Sprintf("it answers as %s, enrolled is %s", identityWords(r.identity), identityWords(t.Pinned))})
		return
	default:
		passed(depthIdentity, "%s, as enrolled", identityWords(r.identity))
	}
	if !slices.Contains(t.driver.Describe().Capabilities.Verbs, power.Identify) {
		r.steps = append(r.steps, "4 privilege: cannot be tried without switching anything")
		return
	}
	_, err = conn.Do(ctx, wpower.Command{Verb: power.Identify, ID: uuid.NewString(), For: time.Second})
	switch kind := wpower.KindOf(err); {
	case err == nil:
		passed(depthPrivilege, "passed, it blinked for a second")
	case kind == power.PrivilegeDenied || kind == power.AuthFailed:
		failed(depthPrivilege, err) // what may not blink may not switch off
	default:
		r.steps = append(r.steps, fmt.Sprintf("4 privilege: not known: %v", err))
	}
}

// unproven says that a reading cannot prove OFF.
func unproven(r power.Reading) string {
	if r.Authentic {
		return ""
	}
	return ", but nothing ties the answer to our credentials: its OFF proves nothing"
}

// openDepth is the step at which opening a session failed.
func openDepth(k power.Kind) depth {
	switch k {
	case power.AuthFailed, power.PrivilegeDenied, power.SessionLimit, power.Busy, power.Unsupported, power.RemoteError, power.ProtocolViolation:
		return depthLogin
	case power.IdentityMismatch:
		return depthIdentity
	}
	return depthReach
}

// identityWords names all that is known of a box.
func identityWords(i power.Identity) string {
	var out []string
	for _, f := range []struct{ name, value string }{{"system UUID", i.SystemUUID}, {"serial", i.Serial}, {"fingerprint", i.Fingerprint}} {
		if f.value != "" {
			out = append(out, f.name+" "+f.value)
		}
	}
	if len(out) == 0 {
		return "no identity"
	}
	return strings.Join(out, ", ")
}

// keepTest records a test's outcome and pins the identity at the first good one
// (power.md §9.4). A device that was busy, slow or away for a moment is not failed by
// that; if it stays away the power machine says so.
func (o *owner) keepTest(devices map[string]deviceRecord, r deviceReading, now time.Time) (events []v1.Event) {
	is, _ := o.device(r.device)
	was := devices[r.device]
	if was.Enrolment != is.Enrolment {
		was.Pinned, was.Enrolment = power.Identity{}, is.Enrolment
	}
	if r.testErr != nil && was.TestOK && was.Config == is.config && !wpower.KindOf(r.testErr).Final() {
		return nil // it could not be tried: the good one counts until it is too old
	}
	d := deviceRecord{Pinned: was.Pinned, Tested: now, TestOK: r.testErr == nil, TestErr: errText(r.testErr), Depth: r.depth, Config: is.config, Enrolment: is.Enrolment}
	switch {
	case r.testErr == nil:
		d.Passed = now
	case was.Config == is.config:
		d.Passed = was.Passed
		if was.TestOK && d.Passed.IsZero() { // of a record from before this was kept
			d.Passed = was.Tested
		}
	}
	if r.testErr == nil && d.Pinned == (power.Identity{}) && declaredIdentity(is) == (power.Identity{}) {
		d.Pinned = r.identity
		x := o.plainEvent("power.pinned", ha.Info, fmt.Sprintf("device %s of %s is the box with %s from now on", r.device, o.host, identityWords(r.identity)), map[string]string{})
		for name, v := range map[string]string{"systemUUID": r.identity.SystemUUID, "serial": r.identity.Serial, "fingerprint": r.identity.Fingerprint} {
			if v != "" {
				x.Data[name] = v
			}
		}
		events = append(events, x)
	}
	if r.identity != d.Pinned {
		d.Seen = r.identity
	}
	kind := string(wpower.KindOf(r.testErr))
	switch alert := was.TestOK || was.Tested.IsZero() || was.Config != is.config || was.TestKind != kind; {
	case !d.TestOK:
		d.TestKind = kind
		if alert { // once for each way of failing, not for each try
			events = append(events, o.plainEvent("power.test-failed", ha.Warning, fmt.Sprintf("power test of %s device %s: %s", o.host, r.device, d.TestErr), map[string]string{"kind": kind, "depth": fmt.Sprint(r.depth + 1)}))
		}
	case !was.TestOK && !was.Tested.IsZero():
		events = append(events, o.plainEvent("power.test-passed", ha.Info, fmt.Sprintf("power test of %s device %s passes again", o.host, r.device), nil))
	}
	devices[r.device] = d
	return events
}

// testDue: at enrolment, when device or profile changed, when the last one is an hour old
// less a share of its own, and at once after a failed one whenever the device answers again.
func (o *owner) testDue(d device, now time.Time) bool {
	t := o.pow.Devices[d.Name]
	every := o.eff.Duration("power.test.interval")
	h := fnv.New64a()
	fmt.Fprint(h, o.host, d.Name, t.Tested.UnixNano())
	every -= every / 1000 * time.Duration(h.Sum64()%101) // up to a tenth: a fleet enrolled together is not tested together
	return !t.TestOK || t.Config != d.config || now.Sub(t.Tested) > every
}

// changed reports whether a device is not the one that was tested last: it is tested at
// once.
func (o *owner) changed(d device) bool { return !d.human && o.pow.Devices[d.Name].Config != d.config }

// levelTested says whether a level passed its last power tests and what is against it.
func (o *owner) levelTested(lv power.Level, now time.Time) (ok bool, why string) {
	ok = lv.All
	for _, name := range lv.Devices {
		t := o.pow.Devices[name]
		good := t.TestOK && now.Sub(t.Tested) < o.eff.Duration("power.test.maxage")
		switch {
		case good:
		case t.TestErr != "":
			why = fmt.Sprintf("the power test of device %s failed: %s", name, t.TestErr)
		case t.TestOK:
			why = fmt.Sprintf("the last power test of device %s is of %s", name, t.Tested.Format(time.RFC3339))
		default:
			why = "its power devices have not been tested yet"
		}
		if lv.All {
			ok = ok && good
		} else {
			ok = ok || good
		}
	}
	return ok, why
}

// levelOnceTested says whether a level ever passed its power tests, and if not why.
func (o *owner) levelOnceTested(lv power.Level, now time.Time) (ok bool, why string) {
	if ok, why = o.levelTested(lv, now); ok {
		return ok, why
	}
	once := func(name string) bool { t := o.pow.Devices[name]; return t.TestOK || !t.Passed.IsZero() }
	if lv.All {
		return !slices.ContainsFunc(lv.Devices, func(name string) bool { return !once(name) }), why
	}
	return slices.ContainsFunc(lv.Devices, once), why
}

// powerTested says whether some level that can prove OFF strongly enough passed its last
// test lately, and if not why (power.md §9.4). What the guard power asks.
func (o *owner) powerTested() (bool, string) { return o.someLevel(o.levelTested) }

// powerOnceTested asks no more than that it ever did: that makes a host eligible (ha.md
// §5). A BMC that died since neither unmakes it nor its neighbours' partition; that is
// power's business (ha.md §3.1), and the guards'.
func (o *owner) powerOnceTested() (bool, string) { return o.someLevel(o.levelOnceTested) }

func (o *owner) someLevel(tested func(power.Level, time.Time) (bool, string)) (bool, string) {
	if len(o.devices) == 0 {
		return false, "no power device on record: it could never be proven off"
	}
	why := "its only power device is a human: who says that it is off must be asked (holdfast host confirm-off)"
	for _, lv := range o.policy.Ladder {
		if lv.Human {
			continue
		}
		if r := lv.Reaches(); r < lv.Min {
			why = fmt.Sprintf("level %d proves no more than %s, and %s is asked for", lv.N, r, lv.Min)
			continue
		}
		ok, bad := tested(lv, o.now())
		if ok {
			return true, ""
		}
		why = bad
	}
	return false, why
}

// hostileEvery is how often an attack on one device is told: it may be one for each packet.
const hostileEvery = time.Hour

// hostileCount is what was dropped since it was told last.
type hostileCount struct {
	told  time.Time
	count int
}

// onHostile puts forged, altered or replayed packets into the log: a security event. It
// changes no state.
func (o *owner) onHostile(ctx context.Context, m hostileMsg) {
	now := o.now()
	c := o.live.hostile[m.device]
	c.count += m.count
	if c.told.IsZero() || now.Sub(c.told) > hostileEvery {
		x := o.plainEvent("power.hostile-packets", ha.Warning, fmt.Sprintf("%d packets that claimed to come from device %s of %s were forged, altered or replayed, and dropped: somebody else is on its network", c.count, m.device, o.host),
			map[string]string{"device": m.device, "count": fmt.Sprint(c.count)})
		if _, ok := o.put(ctx, o.claim.Guard(), []leases.Op{leases.Put(leases.EventKey(x.ID), x)}); !ok {
			return
		}
		o.w.announced([]v1.Event{x})
		c = hostileCount{told: now}
	}
	if o.live.hostile == nil {
		o.live.hostile = map[string]hostileCount{}
	}
	o.live.hostile[m.device] = c
}
