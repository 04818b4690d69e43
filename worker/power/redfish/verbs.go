// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
)

const (
	fresh      = time.Second // age of a reading a command may still rely on
	followFor  = 5 * time.Second
	followStep = 500 * time.Millisecond

	identifyFor = 15 * time.Second
	maxLit      = 5 * time.Second
)

var errLate = errors.New("the command's time has passed")

// resetTypes are the values of ResetType for a verb, best first (DSP0268).
var resetTypes = map[corepower.Verb][]string{
	corepower.HardOff: {"ForceOff"},
	corepower.HardOn:  {"On", "ForceOn"},
	corepower.Reset:   {"ForceRestart"},
	corepower.Cycle:   {"PowerCycle"},
	corepower.SoftOff: {"GracefulShutdown"},
}

// Status reads the power state, and with it the identity.
func (c *conn) Status(ctx context.Context) (corepower.Reading, error) {
	const what = "read power status of"
	if e := c.read(ctx, what); e != nil {
		return corepower.Reading{}, e
	}
	state, moving, err := c.last.power()
	if err != nil {
		return corepower.Reading{}, c.violation(what, err)
	}
	return corepower.Reading{State: state, Transitional: moving, Authentic: c.authentic(), At: c.readAt, Raw: c.last.state}, nil
}

// Identity reads UUID and serial number of the system and the certificate's fingerprint;
// with tls=ca the chain is the proof, and certificates may be renewed.
func (c *conn) Identity(ctx context.Context) (corepower.Identity, error) {
	const what = "read identity of"
	if c.spent != nil || time.Since(c.readAt) > fresh {
		if e := c.read(ctx, what); e != nil {
			return corepower.Identity{}, e
		}
	}
	id := c.identity()
	if id.SystemUUID == "" && (id.Serial == "" || id.Fingerprint == "") {
		return corepower.Identity{}, &power.Error{Kind: corepower.Unsupported, Op: what + " " + c.target.Address,
			Detail: "the system has no UUID, nor a serial number beside a certificate"}
	}
	return id, nil
}

func (c *conn) identity() corepower.Identity {
	id := corepower.Identity{SystemUUID: c.last.uuid, Serial: c.last.serial}
	if c.mode == tlsPin || c.target.Pinned.Fingerprint != "" {
		id.Fingerprint = c.fingerprint
	}
	return id
}

// Do sends one command. "Not in this state" (400, 409) is AlreadyThere, unless a reading
// shows that an absolute verb was refused although it would change something: Busy.
func (c *conn) Do(ctx context.Context, cmd power.Command) (corepower.Outcome, error) {
	what := "send " + string(cmd.Verb) + " to"
	types, isReset := resetTypes[cmd.Verb]
	switch {
	case !isReset && cmd.Verb != corepower.Identify:
		return corepower.Rejected, &power.Error{Kind: corepower.Unsupported, Op: fmt.Sprintf("send %q to %s", cmd.Verb, c.target.Address), Detail: "unknown verb"}
	case c.late(cmd) != nil:
		return corepower.Rejected, stopped(what+" "+c.target.Address, errLate)
	case ctx.Err() != nil:
		return corepower.Rejected, c.overdue(ctx, what)
	}
	ctx, cancel := context.WithTimeout(ctx, c.limits.Command)
	defer cancel()
	if c.spent != nil || time.Since(c.readAt) > fresh {
		if e := c.read(ctx, what); e != nil {
			return corepower.Rejected, e
		}
	}
	if cmd.Verb == corepower.Identify {
		return outcome(c.blink(ctx, what, cmd))
	}
	path, value, e := c.action(ctx, what, types)
	if e != nil {
		return corepower.Rejected, e
	}
	rep, e := c.exchange(ctx, what, c.limits.Command, request{method: http.MethodPost, path: path, command: true,
		body: fmt.Appendf(nil, `{"ResetType":%q}`, value), before: c.gate(cmd)})
	switch {
	case e == nil && rep.status == http.StatusAccepted:
		e = c.follow(ctx, what, rep)
	case e != nil && e.Kind == corepower.InvalidState:
		return c.readBack(ctx, cmd.Verb, e)
	}
	return outcome(e)
}

func outcome(e *power.Error) (corepower.Outcome, error) {
	switch {
	case e == nil:
		return corepower.Accepted, nil
	case e.MayHaveRun:
		return corepower.Indeterminate, e
	}
	return corepower.Rejected, e
}

// late says that the command's time has passed.
func (c *conn) late(cmd power.Command) error {
	if cmd.NotAfter.IsZero() || time.Now().Before(cmd.NotAfter) {
		return nil
	}
	return errLate
}

// gate is asked immediately before the packet.
func (c *conn) gate(cmd power.Command) func() error {
	return func() error {
		if err := c.late(cmd); err != nil || cmd.Before == nil {
			return err
		}
		return cmd.Before()
	}
}

// stopped is the error of a command that its owner, or its own time, held back.
func stopped(op string, err error) *power.Error {
	e := &power.Error{Kind: corepower.Cancelled, Op: op, Detail: "stopped before sending", Err: err}
	if errors.Is(err, errLate) {
		e.Kind, e.Detail = corepower.DeadlinePassed, errLate.Error()
	}
	return e
}

// action finds where the reset action is, and the first value it allows. Without a list
// the best value is tried: the answer tells.
func (c *conn) action(ctx context.Context, what string, types []string) (path, value string, e *power.Error) {
	unsupported := func(detail string) *power.Error {
		return &power.Error{Kind: corepower.Unsupported, Op: what + " " + c.target.Address, Detail: c.detail(detail)}
	}
	if c.last.target == "" {
		return "", "", unsupported("the system has no reset action")
	}
	path, err := c.local(c.last.target)
	if err != nil {
		return "", "", c.violation(what, fmt.Errorf("the link of the reset action: %w", err))
	}
	allowed := c.last.allowed
	if len(allowed) == 0 && c.last.info != "" {
		info, err := c.local(c.last.info)
		if err != nil {
			return "", "", c.violation(what, fmt.Errorf("the link of the reset action's description: %w", err))
		}
		rep, e := c.get(ctx, what, info)
		if e != nil {
			return "", "", e
		}
		if allowed, err = parseInfo(rep.body); err != nil {
			return "", "", c.violation(what, err)
		}
	}
	for _, t := range types {
		if len(allowed) == 0 || slices.Contains(allowed, t) {
			return path, t, nil
		}
	}
	return "", "", unsupported("allowed are " + strings.Join(allowed, ", "))
}

// follow watches the task of an accepted command for a while. Only a failed task is
// news: that a command was accepted proves nothing anyway, readings do.
func (c *conn) follow(ctx context.Context, what string, rep *reply) *power.Error {
	path, err := c.local(rep.header.Get("Location"))
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, followFor)
	defer cancel()
	tick := time.NewTicker(followStep)
	defer tick.Stop()
	for {
		rep, e := c.exchange(ctx, what, c.limits.Answer, request{method: http.MethodGet, path: path})
		if e != nil {
			return nil
		}
		switch state := parseTask(rep.body); state {
		case "Exception", "Killed", "Cancelled", "Interrupted":
			return &power.Error{Kind: corepower.RemoteError, Op: what + " " + c.target.Address, MayHaveRun: true, Detail: "the task of the command ended as " + state}
		case "Completed":
			return nil
		case "":
			if rep.status != http.StatusAccepted {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// readBack judges a refusal "not in this state" by the state. It is neutral, whoever
// asked goes on reading; but a system that refuses with 409 to go where it is not, nor on
// its way to, wants to be asked again: some do so for a while after an off.
func (c *conn) readBack(ctx context.Context, verb corepower.Verb, refusal *power.Error) (corepower.Outcome, error) {
	there, absolute := map[corepower.Verb][]string{
		corepower.HardOff: {"Off", "PoweringOff"}, corepower.HardOn: {"On", "PoweringOn"},
	}[verb]
	if !absolute || refusal.Code != http.StatusConflict {
		return corepower.AlreadyThere, nil
	}
	if _, err := c.Status(ctx); err != nil || slices.Contains(there, c.last.state) {
		return corepower.AlreadyThere, nil
	}
	refusal.Kind, refusal.RetryAfter = corepower.Busy, retryBusy
	return corepower.Rejected, refusal
}

// blink lights the lamp, and puts it out again after For. Redfish has no such timer and
// the device serves nobody else meanwhile, so five seconds must do.
func (c *conn) blink(ctx context.Context, what string, cmd power.Command) *power.Error {
	on, off := `{"IndicatorLED":"Blinking"}`, `{"IndicatorLED":"Off"}`
	switch c.last.lamp {
	case "":
		return &power.Error{Kind: corepower.Unsupported, Op: what + " " + c.target.Address, Detail: "the system has no indicator that can be switched"}
	case "LocationIndicatorActive":
		on, off = `{"LocationIndicatorActive":true}`, `{"LocationIndicatorActive":false}`
	}
	patch := func(ctx context.Context, body string) *power.Error {
		_, e := c.exchange(ctx, what, c.limits.Answer, request{method: http.MethodPatch, path: c.path, command: true, body: []byte(body), etag: c.last.etag, before: c.gate(cmd)})
		return e
	}
	if e := patch(ctx, on); e != nil {
		return e
	}
	lit := cmd.For
	if lit == 0 {
		lit = identifyFor
	}
	t := time.NewTimer(min(lit, maxLit))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return nil // it stays lit, which harms nobody
	}
	c.last.etag = ""    // it was of the resource before the first change
	_ = patch(ctx, off) // the order was to light it
	return nil
}

// Close deletes the session, and keeps or ends the connection. The error of the first
// call says that the device did not confirm; its slot then expires by itself.
func (c *conn) Close(ctx context.Context) (err error) {
	c.closing.Do(func() {
		if c.token != "" {
			if e := c.logout(ctx); e != nil {
				err = e
			}
		}
		if l := c.link; l != nil {
			c.link = nil
			if c.basic && c.opened && c.spent == nil {
				c.driver.idle.put(c.proof(), l)
			} else {
				l.close(false)
			}
		}
		c.token, c.cred = "", power.Credential{}
		c.last, c.readAt = system{}, time.Time{}
		c.spent = &power.Error{Kind: corepower.Cancelled, Op: "use session with " + c.target.Address, Detail: "closed"}
	})
	return err
}

func (c *conn) logout(ctx context.Context) *power.Error {
	wait := closeWait
	if c.spent != nil {
		wait = closeSpent
	}
	if ctx.Err() != nil { // the caller has no time left; a session costs the device one of few slots
		ctx, wait = context.WithoutCancel(ctx), closeSpent
	}
	c.spent = nil
	_, e := c.exchange(ctx, "close session with", wait, request{method: http.MethodDelete, path: c.session})
	if e != nil && e.Code == 0 {
		c.give(e)
	} else if e != nil { // it is gone already
		e = nil
	}
	return e
}

var _ power.Conn = (*conn)(nil)
