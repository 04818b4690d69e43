// SPDX-License-Identifier: Apache-2.0

package manual

import (
	"context"
	"fmt"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
)

// Kind is the name of this driver.
const Kind = "manual"

// Driver stands for the operator in a ladder. The zero value is ready.
type Driver struct{}

// Kind returns "manual".
func (Driver) Kind() string { return Kind }

// Describe returns no verbs: it commands nothing.
func (Driver) Describe() power.Descriptor {
	return power.Descriptor{
		Kind:         Kind,
		Summary:      "waits for an operator who states that the host is off",
		Capabilities: power.Capabilities{Independent: true, MaxAssurance: corepower.A5},
	}
}

// Check refuses parameters; there is nothing to set.
func (d Driver) Check(t power.Target) error {
	_, err := d.Describe().Values(t.Params)
	return err
}

// Open returns a connection that knows nothing.
func (d Driver) Open(ctx context.Context, t power.Target) (power.Conn, error) {
	if err := d.Check(t); err != nil {
		return nil, err
	}
	if ctx.Err() == context.Canceled {
		return nil, &power.Error{Kind: corepower.Cancelled, Op: "open manual level of " + t.Host, Err: context.Cause(ctx)}
	}
	return conn(t.Host), nil
}

// conn is the name of the host to go and look at.
type conn string

func (c conn) unsupported(op string) *power.Error {
	return &power.Error{Kind: corepower.Unsupported, Op: op + " " + string(c),
		Detail: fmt.Sprintf("only a human can: make sure that the host is off, then run holdfast host confirm-off %s", string(c))}
}

// Identity is Unsupported.
func (c conn) Identity(context.Context) (corepower.Identity, error) {
	return corepower.Identity{}, c.unsupported("read identity of")
}

// Status is Unsupported, and so Unknown.
func (c conn) Status(context.Context) (corepower.Reading, error) {
	return corepower.Reading{}, c.unsupported("read power status of")
}

// Do rejects every command.
func (c conn) Do(_ context.Context, cmd power.Command) (corepower.Outcome, error) {
	return corepower.Rejected, c.unsupported(fmt.Sprintf("send %q to", cmd.Verb))
}

// Close does nothing.
func (c conn) Close(context.Context) error { return nil }

var (
	_ power.Driver = Driver{}
	_ power.Conn   = conn("")
)
