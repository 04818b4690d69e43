// SPDX-License-Identifier: Apache-2.0

package link

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/agentpb/frame"
	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/worker/pki/pkitest"
)

// hasty are the limits of the doors that tests open; 0: as they are.
var hasty struct{ handshake, hello time.Duration }

func hurry(s *Server, d *Door) {
	if hasty.handshake > 0 {
		d.limit = hasty.handshake
	}
	if hasty.hello > 0 {
		s.patient = hasty.hello
	}
}

// drip sends bytes one at a time for as long as the other side takes them, and says when it has
// hung up.
func drip(t *testing.T, conn net.Conn, text []byte) {
	t.Helper()
	hungUp := make(chan struct{})
	go func() {
		defer close(hungUp)
		_, _ = io.Copy(io.Discard, conn)
	}()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; {
		select {
		case <-hungUp:
			return
		case <-tick.C:
			if n < len(text) {
				_, _ = conn.Write(text[n : n+1]) // when it fails the other side has hung up
				n++
			}
		case <-limit.C:
			t.Fatal("the door goes on listening")
		}
	}
}

// Who takes his time to say what he speaks, to shake hands, or to say Hello is left in the end.
func TestSlowBeginnings(t *testing.T) {
	dial := func(address string) net.Conn {
		raw, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = raw.Close() })
		return raw
	}
	const soon = 200 * time.Millisecond
	defer func() { hasty.handshake, hasty.hello = 0, 0 }()
	t.Run("preface", func(t *testing.T) {
		hasty.handshake, hasty.hello = soon, 0
		drip(t, dial(open(t).address), []byte(frame.Preface))
	})
	t.Run("handshake", func(t *testing.T) {
		hasty.handshake, hasty.hello = soon, 0
		a := crew(t)
		drip(t, dial(a.address), append([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}, make([]byte, 500)...))
		eventually(t, "it is in the log", func() bool { return a.log.has("peer refused") })
	})
	t.Run("hello", func(t *testing.T) {
		hasty.handshake, hasty.hello = 0, soon
		a := crew(t)
		st := a.dial("bad")
		drip(t, st.Raw(), nil)
		if x := <-a.cuts; x.Host != "bad" || x.Reason != NoHello {
			t.Errorf("cut: %+v", x)
		}
		hasty.hello = 0
		a = crew(t)
		_ = a.door.abused("bad", "bad", &abuseError{NoHello, "slow"})
		a.linked("bad", 1) // it was slow: that costs it no session
	})
}

// Frames and gRPC share a port. Who asks for neither is told, and who has no certificate is not
// let in by frames.
func TestWhatIsSpoken(t *testing.T) {
	a := crew(t)
	src := pkitest.Open(t, a.lab.Issue(t, trust.Host, "h1"))
	none := src.Dialer(trust.Peer{Role: trust.Worker, ID: "w1"})
	conn, err := tls.Dial("tcp", a.address, none)
	if err == nil {
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
	}
	if err == nil {
		t.Error("no protocol at all is spoken here")
	}
	eventually(t, "the worker's log", func() bool { return a.log.has("it asks for no protocol") })
	other := src.Dialer(trust.Peer{Role: trust.Worker, ID: "w1"})
	other.NextProtos = []string{"holdfast-link/0"}
	if _, err := tls.Dial("tcp", a.address, other); err == nil || !strings.Contains(err.Error(), "no application protocol") {
		t.Errorf("another protocol: %v", err)
	}
	_, first, err := a.knock(t, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, ServerName: trust.JoinName}, "h1", 1)
	if r := first.GetRefusal(); r.GetReason() != agentpb.Refusal_DENIED || !strings.Contains(r.GetDetail(), "no certificate") {
		t.Errorf("who joins says Hello and gets %v, %v", first, err)
	}
	a.beats(a.linked("good", 1), 1)

	w := open(t)
	raw, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := io.WriteString(raw, "GET / HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(raw); err != nil || !strings.Contains(string(text), frame.Protocol) {
		t.Errorf("plaintext: %q, %v", text, err)
	}
	client, err := grpc.NewClient(w.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := agentpb.NewPeersClient(client).Came(t.Context(), &agentpb.PeerCame{Host: "h1"}); err != nil {
		t.Errorf("gRPC: %v", err)
	}
}

// A door that stops lets those who were refused hear why, closes all others, and can be stopped
// before it was opened.
func TestDoorStops(t *testing.T) {
	early := NewDoor(New("w1", newTold("w1"), slog.New(slog.DiscardHandler)), nil)
	early.Stop()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := early.Serve(l); err != nil {
		t.Error(err)
	}
	w := open(t)
	linked, _ := w.hello(t, host("h1", 1))
	silent := plainly(t, w.address)
	eventually(t, "both are there", func() bool { return goroutines(t, "link.(*talk).read+") == 2 })
	w.door.Close()
	w.port.Stop()
	if d := recv(t, linked); d.GetRefusal().GetReason() != agentpb.Refusal_SHUTTING_DOWN {
		t.Errorf("got %v", d)
	}
	if d, err := silent.Recv(); err == nil {
		t.Errorf("got %v", d)
	}
	if _, err := net.Dial("tcp", w.address); err == nil {
		t.Error("the door is still open")
	}
}
