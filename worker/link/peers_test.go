// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

// peered answers as it is told to.
type peered struct {
	asked func(ctx context.Context, q *agentpb.PeerRequest) (*agentpb.CommandAnswer, error)
	came  chan string
}

func (p peered) Asked(ctx context.Context, q *agentpb.PeerRequest) (*agentpb.CommandAnswer, error) {
	return p.asked(ctx, q)
}
func (p peered) Came(host string) { p.came <- host }

// One worker asks another about its host: an answer, "not my host", an error of the agent,
// silence and absence are five different things.
func TestAskPeer(t *testing.T) {
	held := make(chan struct{})
	p := peered{came: make(chan string, 1), asked: func(ctx context.Context, q *agentpb.PeerRequest) (*agentpb.CommandAnswer, error) {
		switch q.GetHost() {
		case "mine":
			return &agentpb.CommandAnswer{Body: []byte(q.GetWorker() + " " + q.GetSource())}, nil
		case "other's":
			return nil, ErrNotOwner
		case "held":
			close(held)
		case "broken":
			return nil, errors.New("agent broken: no journal")
		}
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}}
	owner := New("w2", nil, slog.New(slog.DiscardHandler))
	owner.Answer(p)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := NewDoor(owner, nil)
	served := make(chan error, 1)
	go func() { served <- g.Serve(lis) }()
	t.Cleanup(func() { g.Stop(); <-served })
	asker := New("w1", nil, slog.New(slog.DiscardHandler))
	t.Cleanup(asker.Close)
	peer := Peer{"w2", lis.Addr().String()}
	ask := func(limit time.Duration, to Peer, host string) (*agentpb.CommandAnswer, error) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), limit, errSilent)
		defer cancel()
		return asker.AskPeer(ctx, to, &agentpb.PeerRequest{Worker: "w1", Host: host, Source: "s"})
	}
	if a, err := ask(time.Minute, peer, "mine"); err != nil || string(a.GetBody()) != "w1 s" {
		t.Errorf("answer %v, %v", a, err)
	}
	if _, err := ask(time.Minute, peer, "other's"); !errors.Is(err, ErrNotOwner) {
		t.Errorf("another's host: %v, want ErrNotOwner", err)
	}
	if _, err := ask(time.Minute, peer, "broken"); err == nil || !strings.Contains(err.Error(), "no journal") || errors.Is(err, ErrNotOwner) || errors.Is(err, ErrUnreachable) {
		t.Errorf("an agent's error: %v", err)
	}
	if _, err := ask(300*time.Millisecond, peer, "silent"); !errors.Is(err, errSilent) {
		t.Errorf("silence: %v, want the context's cause", err)
	}
	lost := make(chan error, 1)
	go func() {
		_, err := ask(time.Minute, peer, "held")
		lost <- err
	}()
	<-held
	asker.CutCertificates(nil) // nobody believes any more what comes over the connection as it is
	if err := <-lost; !errors.Is(err, ErrUnreachable) {
		t.Errorf("certificates were revoked meanwhile: %v, want ErrUnreachable", err)
	}
	if _, err := ask(time.Minute, peer, "mine"); err != nil {
		t.Errorf("over a new connection: %v", err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	if _, err := ask(time.Minute, Peer{"w3", free.Addr().String()}, "mine"); !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody there: %v, want ErrUnreachable", err)
	}
	if _, err := ask(time.Minute, Peer{"w3", peer.Address}, "mine"); err != nil {
		t.Errorf("at its new address: %v", err)
	}
	if err := asker.TellPeer(t.Context(), peer, "h1"); err != nil {
		t.Fatal(err)
	}
	if host := <-p.came; host != "h1" {
		t.Errorf("told of %s, want h1", host)
	}
}

var errSilent = errors.New("nothing was said")
