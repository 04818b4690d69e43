// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/worker/pki/pkitest"
)

// bytesCodec sends what it is given as it is: an agent need not speak our protobuf.
type bytesCodec struct{ encoding.CodecV2 }

func (c bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.([]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// agents of one fleet at one door, by real connections with certificates.
type agents struct {
	*secured
	t    *testing.T
	lab  *pkitest.Lab
	cuts chan Abuse
}

func crew(t *testing.T) *agents {
	lab := pkitest.New(t)
	a := &agents{t: t, lab: lab, cuts: make(chan Abuse, 100)}
	a.secured = secure(t, lab.Issue(t, trust.Worker, "w1"))
	a.door.OnAbuse(func(x Abuse) { a.cuts <- x })
	return a
}

// connect makes a connection with the certificate of a host.
func (a *agents) connect(host string) *grpc.ClientConn {
	a.t.Helper()
	src := pkitest.Open(a.t, a.lab.Issue(a.t, trust.Host, host))
	conn, err := grpc.NewClient(a.address, grpc.WithTransportCredentials(credentials.NewTLS(src.Dialer(trust.Peer{Role: trust.Worker, ID: "w1"}))),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{encoding.GetCodecV2("proto")})))
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// stream opens a stream that sends raw bytes.
func (a *agents) stream(conn *grpc.ClientConn) (grpc.ClientStream, error) {
	ctx, cancel := context.WithTimeout(a.t.Context(), time.Minute)
	a.t.Cleanup(cancel)
	return conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, agentpb.Link_Connect_FullMethodName)
}

// dial opens a stream on a connection of its own.
func (a *agents) dial(host string) grpc.ClientStream {
	a.t.Helper()
	st, err := a.stream(a.connect(host))
	if err != nil {
		a.t.Fatal(err)
	}
	return st
}

func frameBytes(t *testing.T, up *agentpb.Up) []byte {
	t.Helper()
	b, err := proto.Marshal(up)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func helloBytes(t *testing.T, name string, number uint64) []byte {
	return frameBytes(t, &agentpb.Up{Frame: &agentpb.Up_Hello{Hello: host(name, number)}})
}

func (a *agents) linked(host string, number uint64) grpc.ClientStream {
	a.t.Helper()
	st := a.dial(host)
	var down agentpb.Down
	if err := st.SendMsg(helloBytes(a.t, host, number)); err != nil {
		a.t.Fatal(err)
	}
	if err := st.RecvMsg(&down); err != nil || down.GetWelcome() == nil {
		a.t.Fatalf("%s: %v, %v", host, &down, err)
	}
	return st
}

// beats proves that a host's link works.
func (a *agents) beats(st grpc.ClientStream, seq uint64) {
	a.t.Helper()
	if err := st.SendMsg(frameBytes(a.t, &agentpb.Up{Frame: &agentpb.Up_Ping{Ping: &agentpb.Ping{Seq: seq}}})); err != nil {
		a.t.Fatal(err)
	}
	<-a.pings
	var down agentpb.Down
	if err := st.RecvMsg(&down); err != nil || down.GetPong().GetSeq() != seq {
		a.t.Fatalf("%v, %v, want pong %d", &down, err, seq)
	}
}

// An agent that sends what no good one does is cut and named, cannot come back at once,
// and its neighbour at the same door feels nothing.
func TestHostileAgentIsCutAndNamed(t *testing.T) {
	digest := func() []byte { // a report with half a million empty entries in a megabyte
		var inner []byte
		for range 500_000 {
			inner = protowire.AppendBytes(protowire.AppendTag(inner, 4, protowire.BytesType), nil)
		}
		report := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), inner)
		return protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), report)
	}()
	if len(digest) > maxFrame {
		t.Fatalf("the digest has %d bytes and would be cut for those", len(digest))
	}
	for reason, send := range map[string]func(t *testing.T, st grpc.ClientStream){
		Oversize:      func(t *testing.T, st grpc.ClientStream) { _ = st.SendMsg(make([]byte, maxFrame+1)) },
		Malformed:     func(t *testing.T, st grpc.ClientStream) { _ = st.SendMsg([]byte{0xff, 0xff, 0xff, 0xff}) },
		TooMany:       func(t *testing.T, st grpc.ClientStream) { _ = st.SendMsg(digest) },
		ReplayedHello: func(t *testing.T, st grpc.ClientStream) { _ = st.SendMsg(helloBytes(t, "bad", 1)) },
		Flood: func(t *testing.T, st grpc.ClientStream) {
			answer := frameBytes(t, &agentpb.Up{Frame: &agentpb.Up_Answer{Answer: &agentpb.Answer{Id: "nobody asked"}}})
			for range 20 * frameBurst {
				if st.SendMsg(answer) != nil {
					return
				}
			}
		},
	} {
		t.Run(reason, func(t *testing.T) {
			a := crew(t)
			good, bad := a.linked("good", 1), a.linked("bad", 1)
			a.beats(good, 1)
			send(t, bad)
			x := <-a.cuts
			if x.Host != "bad" || x.Reason != reason || x.Detail == "" {
				t.Errorf("cut: %+v, want bad for %s", x, reason)
			}
			eventually(t, "the session is gone", func() bool { return a.door.Session("bad") == nil })
			again := a.dial("bad")
			_ = again.SendMsg(helloBytes(t, "bad", 2))
			var down agentpb.Down
			if err := again.RecvMsg(&down); err == nil {
				t.Errorf("it is back at once: %v", &down)
			}
			for seq := uint64(2); seq < 5; seq++ {
				a.beats(good, seq)
			}
			if n := a.door.Counts().Sessions; n != 1 {
				t.Errorf("%d sessions", n)
			}
		})
	}
}

// Before its Hello an agent is named by its certificate.
func TestHostileBeforeHello(t *testing.T) {
	a := crew(t)
	_ = a.dial("bad").SendMsg([]byte{0xff})
	if x := <-a.cuts; x.Host != "bad" || x.Reason != Malformed {
		t.Errorf("cut: %+v", x)
	}
}

// A host may say Hello again and again only so often, on whatever streams.
func TestHelloFlood(t *testing.T) {
	a := crew(t)
	conn := a.connect("bad")
	for n := uint64(1); n < 10*helloBurst; n++ {
		st, err := a.stream(conn)
		if err != nil {
			t.Fatal(err)
		}
		_ = st.SendMsg(helloBytes(t, "bad", n))
		_ = st.RecvMsg(&agentpb.Down{})
		select {
		case x := <-a.cuts:
			if x.Host != "bad" || x.Reason != HelloFlood {
				t.Errorf("cut: %+v", x)
			}
			return
		default:
		}
	}
	t.Error("it was never cut")
}

// A host has so many connections and no more; another host's are its own.
func TestConnectionsOfOneHost(t *testing.T) {
	a := crew(t)
	var all []grpc.ClientStream
	for n := range uint64(maxConns) {
		all = append(all, a.linked("bad", n+1))
	}
	st, err := a.stream(a.connect("bad"))
	if err == nil {
		_ = st.SendMsg(helloBytes(t, "bad", 99))
		err = st.RecvMsg(&agentpb.Down{})
	}
	if err == nil {
		t.Errorf("connection number %d was let in", len(all)+1)
	}
	a.beats(a.linked("good", 1), 1)
}

// An agent that takes nothing is cut and named, even while it goes on sending.
func TestSlowReaderIsNamed(t *testing.T) {
	a := crew(t)
	a.linked("bad", 1)
	ses := a.door.Session("bad")
	big := &agentpb.Down{Frame: &agentpb.Down_Welcome{Welcome: &agentpb.Welcome{Worker: string(make([]byte, 64<<10))}}}
	for {
		select {
		case x := <-a.cuts:
			if x.Host != "bad" || x.Reason != SlowReader {
				t.Errorf("cut: %+v", x)
			}
			a.beats(a.linked("good", 1), 1)
			return
		default:
			ses.line.send(big)
		}
	}
}

// One agent cannot answer a question that another was asked.
func TestAnswersAreTheAskedHosts(t *testing.T) {
	a := crew(t)
	good, bad := a.linked("good", 1), a.linked("bad", 1)
	got := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		answer, err := a.door.Ask(ctx, "good", &agentpb.Request{})
		if err == nil && answer.GetHealth().GetReport().GetHypervisorDetail() != "mine" {
			err = fmt.Errorf("answer %v", answer)
		}
		got <- err
	}()
	var down agentpb.Down
	if err := good.RecvMsg(&down); err != nil {
		t.Fatal(err)
	}
	reply := func(st grpc.ClientStream, detail string) {
		if err := st.SendMsg(frameBytes(t, &agentpb.Up{Frame: &agentpb.Up_Answer{Answer: &agentpb.Answer{Id: down.GetRequest().GetId(), Body: &agentpb.Answer_Health{Health: &agentpb.HealthAnswer{Report: &agentpb.Report{HypervisorDetail: detail}}}}}})); err != nil {
			t.Error(err)
		}
	}
	reply(bad, "forged")
	a.beats(bad, 7) // the forged answer has been read
	reply(good, "mine")
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// FuzzFrames: whatever bytes an agent sends, they are a frame or an error, and no frame
// costs more than its bounds.
func FuzzFrames(f *testing.F) {
	for _, up := range []*agentpb.Up{
		{Frame: &agentpb.Up_Hello{Hello: host("h1", 1)}}, {Frame: &agentpb.Up_Goodbye{Goodbye: &agentpb.Goodbye{Kind: agentpb.Goodbye_HOST_REBOOT}}},
		{Frame: &agentpb.Up_Ping{Ping: &agentpb.Ping{Seq: 1, Report: &agentpb.Report{Instances: []*agentpb.Instance{{Id: "i", Disks: []*agentpb.Disk{{Pool: "p"}}}}}}}},
		{Frame: &agentpb.Up_Answer{Answer: &agentpb.Answer{Id: "x", Body: &agentpb.Answer_Activity{Activity: &agentpb.ActivityAnswer{}}}}},
	} {
		b, err := proto.Marshal(up)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	codec := frugal{encoding.GetCodecV2("proto")}
	f.Fuzz(func(t *testing.T, b []byte) {
		var up agentpb.Up
		if codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, &up) != nil {
			return
		}
		var instances, pools int
		for _, r := range []*agentpb.Report{up.GetPing().GetReport(), up.GetHello().GetReport(), up.GetAnswer().GetHealth().GetReport()} {
			instances, pools = instances+len(r.GetInstances()), pools+len(r.GetPools())
		}
		if instances+pools > maxParts {
			t.Errorf("%d instances, %d pools", instances, pools)
		}
		g := newGuards(time.Now).of("h1")
		_ = g.frame(&up)
		w := &wire{out: &outbox{sending: true}}
		w.send(&agentpb.Down{Frame: &agentpb.Down_Pong{Pong: &agentpb.Pong{Seq: up.GetPing().GetSeq()}}})
	})
}
