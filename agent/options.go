// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"regexp"
	"strconv"

	"github.com/holdfast-ha/holdfast/agent/exec"
	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/probe"
	"github.com/holdfast-ha/holdfast/agent/trust"
)

// ErrOptions says that New was given options that cannot be used; nothing was touched.
var ErrOptions = errors.New("bad option")

// Options is all an agent needs. Fields without "default" are required.
type Options struct {
	Host    string   // this host's id, as workers know it
	Workers []string // host:port of the first workers to ask; the list they send is kept in StateDir
	// StateDir holds agent.properties and the epoch memory. It belongs to this agent
	// alone, lies on a local disk, and outlives boots.
	StateDir string
	Version  string // sent in the Hello
	// Dial reaches a worker; default net.Dialer.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// TLS are the files of this host's certificate and of the authorities of the workers';
	// they are read anew when they change.
	TLS trust.Files
	// JoinToken is a file with a join token, instead of TLS: with it the agent gets its own
	// certificate from a worker, keeps it in StateDir and renews it.
	JoinToken string
	// InsecureLoopback is plaintext instead, to workers on this machine only.
	InsecureLoopback bool
	// ListenMetrics is the host:port at which /metrics is shown; default none. A loopback
	// address is plaintext; any other one needs this host's certificate, and whoever asks an
	// operator's.
	ListenMetrics string
	Hypervisor    hypervisor.Hypervisor
	Pools         []probe.Pool // shared pools this host mounts; may be empty
	// Observe, if set, is told of each point that a command comes to, before it goes on; it
	// may block until ctx ends.
	Observe func(ctx context.Context, command string, at exec.Point)
	// SyncJournal, if set, makes the journal's writes durable instead of fdatasync; it may hang.
	SyncJournal func(f *os.File) error
	Prober      probe.Prober // default probe.Net
	Logger      *slog.Logger // default: discard
}

// check fills in defaults and names the first field that cannot be used.
func (o *Options) check() error {
	if err := probe.CheckHost(o.Host); err != nil {
		return err
	}
	if len(o.Workers) == 0 {
		return errors.New("workers is empty: want at least one host:port")
	}
	switch {
	case o.JoinToken != "" && (o.InsecureLoopback || !o.TLS.None()):
		return errors.New("joinToken: not allowed together with tls or insecureLoopback")
	case o.TLS.None() && !o.InsecureLoopback && o.JoinToken == "":
		return fmt.Errorf("tls: empty, without certificates nothing is dialled: want ca, cert and key; or joinToken, a file with what 'holdfast join-token create' gave; a set for a lab: holdfast pki init --dir pki && holdfast pki issue host %s --dir pki; "+
			"for plaintext on this machine alone: insecureLoopback: true", o.Host)
	case !o.TLS.None() && o.InsecureLoopback:
		return errors.New("insecureLoopback: true, not allowed together with tls")
	}
	for _, w := range o.Workers {
		if err := o.checkAddress(w); err != nil {
			return fmt.Errorf("workers: %w", err)
		}
	}
	if err := o.checkListenMetrics(); err != nil {
		return err
	}
	if o.StateDir == "" {
		return errors.New("state dir is empty: want a directory of this agent's own")
	}
	if o.Hypervisor == nil {
		return errors.New("hypervisor is missing")
	}
	seen := map[string]bool{}
	for i, p := range o.Pools {
		if p == nil || p.ID() == "" {
			return fmt.Errorf("pools: number %d has no id", i+1)
		}
		if seen[p.ID()] {
			return fmt.Errorf("pools: id %q is given twice", p.ID())
		}
		seen[p.ID()] = true
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
	if o.Prober == nil {
		o.Prober = probe.Net{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// checkAddress says whether a worker's address may be dialled.
func (o *Options) checkAddress(address string) error {
	host, err := splitAddress(address)
	if err != nil {
		return err
	}
	if o.InsecureLoopback && !trust.Loopback(host) {
		return fmt.Errorf("address %q: without TLS only loopback addresses are allowed", address)
	}
	return nil
}

// hostPart is a name or an address: nothing that would break a line of a properties file.
var hostPart = regexp.MustCompile(`^[A-Za-z0-9._:%-]+$`)

// splitAddress returns the host of a host:port.
func splitAddress(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || !hostPart.MatchString(host) {
		return "", fmt.Errorf("address %q: want host:port", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("address %q: port %q is not between 1 and 65535", address, port)
	}
	return host, nil
}
