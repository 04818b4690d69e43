// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/agentpb/frame"
	"github.com/holdfast-ha/holdfast/agent/trust"
)

// Peered answers other workers, which own the hosts of commands about hosts that this one
// owns (commands.md "Reconciling").
type Peered interface {
	// Asked has the agent of a host that is owned here work on a request about a command of
	// a host that the asker owns. ErrNotOwner: nothing was done, another worker is to be
	// asked. Any other error: it may or may not have been worked on.
	Asked(ctx context.Context, q *agentpb.PeerRequest) (*agentpb.CommandAnswer, error)
	// Came: a host about which this worker had asked another one in vain can be asked, or is
	// proven off. It must not block.
	Came(host string)
}

// ErrNotOwner is returned for a host of which the worker that was asked is not the owner.
var ErrNotOwner = errors.New("the worker that was asked does not own the host")

// ErrUnreachable is returned where another worker cannot be reached, or was lost meanwhile.
var ErrUnreachable = errors.New("the worker that owns the host cannot be reached")

// peers are the connections to other workers that were asked about their hosts.
type peers struct {
	h Peered // nil: nothing is answered

	mu     sync.Mutex
	conns  map[string]*grpc.ClientConn // by the worker's id
	at     map[string]Peer             // where each leads to
	closed bool
	agentpb.UnimplementedPeersServer
	s *Server
}

// Answer makes h answer other workers; without it they are told that nobody does. It is
// called before NewDoor.
func (s *Server) Answer(h Peered) { s.peers.h = h }

// deadlineSlack is by how much two processes may disagree about the end of a call.
const deadlineSlack = time.Second

// AskPeer has another worker ask the agent of a host that it owns, until ctx ends. Errors:
// ErrUnreachable, ErrNotOwner, the context's cause, or what that worker or the agent said.
func (s *Server) AskPeer(ctx context.Context, owner Peer, q *agentpb.PeerRequest) (*agentpb.CommandAnswer, error) {
	conn, err := s.peers.conn(owner)
	if err != nil {
		return nil, err
	}
	a, err := agentpb.NewPeersClient(conn).Ask(ctx, q)
	return a, peerError(ctx, owner, err)
}

// TellPeer tells another worker that a host about which it had asked can be asked now.
func (s *Server) TellPeer(ctx context.Context, to Peer, host string) error {
	conn, err := s.peers.conn(to)
	if err != nil {
		return err
	}
	_, err = agentpb.NewPeersClient(conn).Came(ctx, &agentpb.PeerCame{Host: host})
	return peerError(ctx, to, err)
}

// peerError says what a failed call means.
func peerError(ctx context.Context, p Peer, err error) error {
	if status.Code(err) == codes.DeadlineExceeded { // the other side has the same deadline, and may be quicker to say so
		select {
		case <-ctx.Done():
		case <-time.After(deadlineSlack):
		}
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("worker %s: %w", p.ID, context.Cause(ctx))
	case status.Code(err) == codes.FailedPrecondition:
		return fmt.Errorf("worker %s: %w", p.ID, ErrNotOwner)
	case status.Code(err) == codes.Unavailable, status.Code(err) == codes.Canceled:
		return fmt.Errorf("worker %s: %w: %s", p.ID, ErrUnreachable, status.Convert(err).Message())
	}
	return fmt.Errorf("worker %s: %s", p.ID, status.Convert(err).Message())
}

// conn returns the connection to a worker, which is dialled with the first call on it.
func (p *peers) conn(to Peer) (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, &refusedError{stopping}
	}
	if c := p.conns[to.ID]; c != nil {
		if p.at[to.ID] == to {
			return c, nil
		}
		c.Close() // it led to where the worker was before
	}
	c, err := p.s.dial(to)
	if err != nil {
		return nil, err
	}
	if p.conns == nil {
		p.conns, p.at = map[string]*grpc.ClientConn{}, map[string]Peer{}
	}
	p.conns[to.ID], p.at[to.ID] = c, to
	return c, nil
}

func (p *peers) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.drop()
}

// drop closes all connections, which ends the calls on them; the next call dials anew.
func (p *peers) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}

// redial: a worker that comes back is reached soon after.
var redial = backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}

// dial makes a connection to another worker's door, which must show that it is that worker.
func (s *Server) dial(to Peer) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if src := s.trust; src != nil {
		creds = credentials.NewTLS(src.Dialer(trust.Peer{Role: trust.Worker, ID: to.ID}))
	}
	conn, err := grpc.NewClient("passthrough:///"+to.Address,
		grpc.WithTransportCredentials(creds), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: redial, MinConnectTimeout: 2 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(frame.Max), grpc.MaxCallSendMsgSize(frame.Max)))
	if err != nil {
		return nil, fmt.Errorf("dial worker %s: %w", to.ID, err)
	}
	return conn, nil
}

// Ask implements agentpb.PeersServer.
func (p *peers) Ask(ctx context.Context, q *agentpb.PeerRequest) (*agentpb.CommandAnswer, error) {
	who, _, err := p.s.admit(ctx, trust.Worker)
	if err != nil {
		return nil, err
	}
	switch {
	case p.h == nil:
		return nil, status.Error(codes.Unimplemented, "this worker answers no other one")
	case p.s.trust != nil && who.ID != q.GetWorker():
		return nil, status.Error(codes.PermissionDenied, "the request must name the worker that the certificate names")
	}
	a, err := p.h.Asked(ctx, q)
	switch {
	case errors.Is(err, ErrNotOwner):
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	case err != nil:
		return nil, status.Error(codes.Aborted, err.Error())
	}
	return a, nil
}

// Came implements agentpb.PeersServer.
func (p *peers) Came(ctx context.Context, c *agentpb.PeerCame) (*agentpb.PeerHeard, error) {
	if _, _, err := p.s.admit(ctx, trust.Worker); err != nil {
		return nil, err
	}
	if p.h != nil {
		p.h.Came(c.GetHost())
	}
	return &agentpb.PeerHeard{}, nil
}
