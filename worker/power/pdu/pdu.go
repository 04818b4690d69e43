// SPDX-License-Identifier: Apache-2.0

package pdu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
)

// Kind is the name of this driver.
const Kind = "pdu"

const maxOutlets = 16

// Driver switches outlet sets through another driver.
type Driver struct{ agent power.Driver }

// New makes the driver. agent switches one outlet, named by its parameter "plug": the
// driver of fence agents.
func New(agent power.Driver) *Driver { return &Driver{agent} }

// Kind returns "pdu".
func (d *Driver) Kind() string { return Kind }

// Describe returns the driver's own parameters; the agent driver's are parameters too.
func (d *Driver) Describe() power.Descriptor {
	under := d.agent.Describe()
	return power.Descriptor{
		Kind:    Kind,
		Summary: "the outlets of one power distribution unit that feed the host, through a fence agent",
		Params: append([]power.Param{
			{Name: "outlets", Type: power.ParamString, Required: true, Help: "all outlets of this unit that feed the host, like 4,12"},
			{Name: "stagger", Type: power.ParamDuration, Default: "500ms", Help: "time between two outlets that come on"},
		}, under.Params...),
		Capabilities: power.Capabilities{
			Verbs:    []corepower.Verb{corepower.HardOff, corepower.HardOn},
			Identity: under.Capabilities.Identity, Authentic: under.Capabilities.Authentic,
			Independent: true, Blocking: true, MaxAssurance: corepower.A5,
		},
	}
}

// outlet is one target of the agent driver.
type outlet struct {
	name   string
	target power.Target
}

// outlets splits a target into those of its outlets.
func (d *Driver) outlets(t power.Target) (out []outlet, stagger time.Duration, err error) {
	const op = "check pdu target"
	own, rest := map[string]string{}, map[string]string{}
	for name, v := range t.Params {
		switch name {
		case "outlets", "stagger":
			own[name] = v
		case "plug", "port":
			return nil, 0, power.BadConfig(op, "parameter %q: cannot be set, the outlets are in parameter %q", name, "outlets")
		default:
			rest[name] = v
		}
	}
	schema := d.Describe()
	schema.Params = schema.Params[:2]
	if own, err = schema.Values(own); err != nil {
		return nil, 0, err
	}
	if stagger, err = time.ParseDuration(own["stagger"]); err != nil || stagger < 0 || stagger > 10*time.Second {
		return nil, 0, power.BadConfig(op, "parameter %q: value %q: allowed is 0s to 10s", "stagger", own["stagger"])
	}
	names := strings.Split(own["outlets"], ",")
	if len(names) > maxOutlets {
		return nil, 0, power.BadConfig(op, "parameter %q: %d outlets, allowed are at most %d", "outlets", len(names), maxOutlets)
	}
	for i, name := range names {
		name = strings.TrimSpace(name)
		if names[i] = name; name == "" || slices.Contains(names[:i], name) {
			return nil, 0, power.BadConfig(op, "parameter %q: value %q: allowed are different outlets with commas between them", "outlets", own["outlets"])
		}
		sub := t
		sub.Pinned = corepower.Identity{} // of the set; compared here
		sub.Params = maps.Clone(rest)
		sub.Params["plug"] = name
		out = append(out, outlet{name, sub})
	}
	return out, stagger, nil
}

// Check validates the target of each outlet.
func (d *Driver) Check(t power.Target) error {
	outlets, _, err := d.outlets(t)
	if err != nil {
		return err
	}
	for _, o := range outlets {
		if err := d.agent.Check(o.target); err != nil {
			return err
		}
	}
	return nil
}

// Warnings are those of the agent driver.
func (d *Driver) Warnings(t power.Target) []string {
	w, ok := d.agent.(power.Warner)
	outlets, _, err := d.outlets(t)
	if !ok || err != nil {
		return nil
	}
	return w.Warnings(outlets[0].target)
}

// Open opens every outlet. With a pinned identity it reads the set's and answers
// IdentityMismatch for another.
func (d *Driver) Open(ctx context.Context, t power.Target) (power.Conn, error) {
	outlets, stagger, err := d.outlets(t)
	if err != nil {
		return nil, err
	}
	c := &conn{address: t.Address, stagger: stagger}
	for _, o := range outlets {
		under, err := d.agent.Open(ctx, o.target)
		if err != nil {
			_ = c.Close(ctx) // the error of the outlet is the one that matters
			return nil, named(o.name, err)
		}
		c.outlets = append(c.outlets, feed{o.name, under})
	}
	if t.Pinned == (corepower.Identity{}) {
		return c, nil
	}
	got, err := c.Identity(ctx)
	if err == nil && !t.Pinned.Matches(got) {
		err = &power.Error{Kind: corepower.IdentityMismatch, Op: "open session with " + t.Address, Detail: fmt.Sprintf("the outlets give %q, enrolled is %q", got.Fingerprint, t.Pinned.Fingerprint)}
	}
	if err != nil {
		_ = c.Close(ctx)
		return nil, err
	}
	return c, nil
}

// feed is one open outlet.
type feed struct {
	name string
	power.Conn
}

// conn is one transaction with all outlets of a set.
type conn struct {
	address string
	outlets []feed
	stagger time.Duration
}

// Identity is a fingerprint of those of the outlets, in their order.
func (c *conn) Identity(ctx context.Context) (corepower.Identity, error) {
	h := sha256.New()
	for _, o := range c.outlets {
		id, err := o.Identity(ctx)
		if err != nil {
			return corepower.Identity{}, named(o.name, err)
		}
		fmt.Fprintf(h, "%q %+v\n", o.name, id)
	}
	return corepower.Identity{Fingerprint: "pdu:" + hex.EncodeToString(h.Sum(nil)[:16])}, nil
}

// Status reads every outlet. One that is on decides; OFF needs all of them, and is as
// old as the first of them.
func (c *conn) Status(ctx context.Context) (corepower.Reading, error) {
	var set corepower.Reading
	var failed error
	var raw []string
	for i, o := range c.outlets {
		r, err := o.Status(ctx)
		switch {
		case err != nil:
			if failed == nil {
				failed = named(o.name, err)
			}
			continue
		case r.State == corepower.On:
			r.Raw = "outlet " + o.name + " ON"
			return r, nil
		case r.State != corepower.Off && failed == nil:
			failed = &power.Error{Kind: corepower.ProtocolViolation, Op: "read power status of " + c.address, Detail: "outlet " + o.name + ": neither on nor off"}
		}
		if i == 0 {
			set = r
		}
		set.Authentic = set.Authentic && r.Authentic
		set.Transitional = set.Transitional || r.Transitional
		set.Fault = set.Fault || r.Fault
		if r.At.Before(set.At) {
			set.At = r.At
		}
		raw = append(raw, o.name)
	}
	if failed != nil {
		return corepower.Reading{}, failed
	}
	set.Raw = "outlets " + strings.Join(raw, ",") + " OFF"
	return set, nil
}

// Do switches one outlet after the other.
func (c *conn) Do(ctx context.Context, cmd power.Command) (corepower.Outcome, error) {
	if cmd.Verb != corepower.HardOff && cmd.Verb != corepower.HardOn {
		return corepower.Rejected, &power.Error{Kind: corepower.Unsupported, Op: fmt.Sprintf("send %q to %s", cmd.Verb, c.address), Detail: "outlets know off and on"}
	}
	switched := 0
	var failed error
	unclear := false
	for i, o := range c.outlets {
		if i > 0 && cmd.Verb == corepower.HardOn && !pause(ctx, c.stagger) {
			failed = &power.Error{Kind: corepower.DeadlinePassed, Op: "send on to " + c.address, Detail: "outlet " + o.name + ": no time left", Err: context.Cause(ctx)}
			break
		}
		out, err := o.Do(ctx, cmd)
		switch {
		case err != nil:
			failed, unclear = named(o.name, err), unclear || out == corepower.Indeterminate
		case out == corepower.Accepted:
			switched++
		}
		if err != nil && (cmd.Verb == corepower.HardOff || ctx.Err() != nil || power.KindOf(err) == corepower.Cancelled) {
			break
		}
	}
	switch {
	case failed == nil && switched == 0:
		return corepower.AlreadyThere, nil
	case failed == nil:
		return corepower.Accepted, nil
	case switched == 0 && !unclear:
		return corepower.Rejected, failed
	}
	var e *power.Error
	if errors.As(failed, &e) {
		e.MayHaveRun = true // on an outlet, if not on this one
	}
	return corepower.Indeterminate, failed
}

// Close closes every outlet; the first error is returned.
func (c *conn) Close(ctx context.Context) (err error) {
	for _, o := range c.outlets {
		if e := o.Close(ctx); err == nil {
			err = e
		}
	}
	return err
}

// named says in an error which outlet it was.
func named(outlet string, err error) error {
	var e *power.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("outlet %s: %w", outlet, err)
	}
	with := *e
	with.Detail = strings.TrimSuffix("outlet "+outlet+": "+e.Detail, ": ")
	return &with
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

var _ power.Conn = (*conn)(nil)
