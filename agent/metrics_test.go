// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/journal"
	"github.com/holdfast-ha/holdfast/agent/metric/metrictest"
	"github.com/holdfast-ha/holdfast/agent/probe"
	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/worker/pki/pkitest"
)

// Names and texts are in order, and the table behind docs/metrics.md is what there is.
func TestMetricsTable(t *testing.T) {
	metrictest.Check(t, newAgent(t, nil).metrics.Table, metricsPrefix)
}

// meteredHost is a hypervisor that tells of its calls.
type meteredHost struct {
	fakeHost
	told func(time.Duration, error)
}

func (h *meteredHost) Meter(told func(time.Duration, error)) { h.told = told }

// An agent at work shows whom it is linked to, how long answers take, and what it finds; when
// the link is lost it shows that it has another.
func TestMetricsShown(t *testing.T) {
	var w1, w2 *fakeWorker
	both := func() *agentpb.List { return list("static", time.Minute, w1.address, w2.address) }
	calm := &agentpb.Settings{PingIntervalMs: 1000, StampIntervalMs: 20, HelloRetryMs: 20} // a link is half-open after 3 s only
	at := func(id string) *fakeWorker {
		return startWorker(t, func(*agentpb.Hello) *agentpb.Down {
			return &agentpb.Down{Frame: &agentpb.Down_Welcome{Welcome: &agentpb.Welcome{Worker: id, Epoch: ep("c1", 1, 10), Settings: calm, List: both()}}}
		})
	}
	w1, w2 = at("w1"), at("w2")
	host := &meteredHost{fakeHost: fakeHost{instances: []hypervisor.Instance{{ID: "i1"}, {ID: "i2"}}}}
	a, _ := linkedTo(t, func(o *Options) {
		o.Hypervisor, o.ListenMetrics = host, "127.0.0.1:0"
		o.Pools = []probe.Pool{newMemPool("p1"), &memPool{id: "p2", stamps: map[string]string{}, err: errors.New("read-only")}}
		o.Prober = fakeProber{"10.0.0.2": func(context.Context) (bool, error) { return false, nil }}
	}, w1.address)
	a.remember(t.Context(), &agentpb.ActivityRequest{Host: "h2", WindowMs: 100, RememberMs: maxRemember.Milliseconds(), Pools: []*agentpb.PoolQuery{{Pool: "p1"}}})
	host.told(time.Second, nil)
	host.told(time.Second, fmt.Errorf("call: %w", hypervisor.ErrUnsure))
	if _, err := a.opts.Prober.Probe(t.Context(), "10.0.0.2"); err != nil {
		t.Error(err)
	}
	page := func() string { return metrictest.Scrape(t, a.metrics.Table) }
	shows := func(lines ...string) func() bool {
		return func() bool {
			text := page()
			for _, l := range lines {
				if !strings.Contains(text, "\n"+l+"\n") {
					return false
				}
			}
			return true
		}
	}
	eventually(t, "it is linked, and another stands by", shows(
		`holdfast_agent_linked 1`, `holdfast_agent_standby 1`, `holdfast_agent_link_info{role="active",worker="w1"} 1`, `holdfast_agent_link_info{role="standby",worker="standby"} 1`,
		`holdfast_agent_instances 2`, `holdfast_agent_hypervisor_healthy 1`, `holdfast_agent_watched_hosts 1`, `holdfast_agent_watch_blind 0`,
		`holdfast_agent_pool_usable{pool="p1"} 1`, `holdfast_agent_pool_usable{pool="p2"} 0`, `holdfast_agent_gate_open 0`, `holdfast_agent_journal_problems 0`,
	))
	eventually(t, "pings were answered and everything was looked at", func() bool {
		text := page()
		for _, none := range []string{
			`holdfast_agent_ping_round_trip_seconds_count 0`, `holdfast_agent_probes_total{probe="stamp",result="ok"} 0`, `holdfast_agent_probes_total{probe="stamp",result="failed"} 0`,
			`holdfast_agent_probes_total{probe="hypervisor",result="ok"} 0`, `holdfast_agent_probes_total{probe="sample",result="ok"} 0`,
		} {
			if strings.Contains(text, "\n"+none+"\n") {
				return false
			}
		}
		return true
	})
	metrictest.Shows(t, page(),
		`holdfast_agent_probes_total{probe="network",result="silent"} 1`, `holdfast_agent_hypervisor_calls_total{result="ok"} 1`, `holdfast_agent_hypervisor_calls_total{result="unsure"} 1`,
		`holdfast_agent_build_info{version="test"} 1`,
	)
	w1.down <- refusal(&agentpb.Refusal{Reason: agentpb.Refusal_SHUTTING_DOWN})
	eventually(t, "the other took over, and it was counted", func() bool { // by a new stream where this machine is too slow for the standby
		none := shows(`holdfast_agent_link_reconnects_total{how="standby"} 0`, `holdfast_agent_link_reconnects_total{how="dialled"} 0`)
		return shows(`holdfast_agent_link_info{role="active",worker="w2"} 1`)() && !none()
	})

	eventually(t, "it is shown over HTTP", func() bool { return a.showing.Load() != nil })
	resp, err := http.Get("http://" + *a.showing.Load() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", resp.Status, err)
	}
	series := 0
	for l := range strings.Lines(string(text)) {
		if strings.HasPrefix(l, metricsPrefix) {
			series++
		}
	}
	if series < 100 || series > 300 { // docs/metrics.md says: some hundred
		t.Errorf("%d series", series)
	}
}

// Requests and commands are counted by what became of them, and the journal by what is in it.
func TestMetricsOfWork(t *testing.T) {
	a := newAgent(t, nil)
	a.handle(t.Context(), &agentpb.Request{Id: "r1", Epoch: ep("c1", 1, 10), TimeoutMs: 60_000, Body: &agentpb.Request_Health{Health: &agentpb.HealthRequest{}}})
	a.handle(t.Context(), &agentpb.Request{Id: "r2", Epoch: ep("c1", 1, 9), TimeoutMs: 60_000, Body: &agentpb.Request_Health{Health: &agentpb.HealthRequest{}}})
	a.metrics.failed(ending{refusal: &agentpb.Refusal{Reason: agentpb.Refusal_BLIND}})
	a.metrics.failed(ending{refusal: &agentpb.Refusal{Reason: 4711}})
	a.metrics.failed(ending{err: errors.New("no route")})
	metrictest.Shows(t, metrictest.Scrape(t, a.metrics.Table), `holdfast_agent_journal_problems 0`) // it is not read yet
	defer a.openCommands(t.Context(), "boot-1")()
	j, _, err := a.commands.get()
	if err != nil {
		t.Fatal(err)
	}
	spec := command.Spec{V: command.Version, Kind: command.Copy, Items: []command.Item{{Volume: "v", Format: "raw"}}}
	for _, id := range []string{"c1", "c2"} {
		if err := errors.Join(j.Begin(id, spec, "taken"), j.Step(id, command.Completed, "done")); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Forget("c1", 2); err != nil {
		t.Fatal(err)
	}
	a.gate.ask(&agentpb.Gate{Generation: "g1"})
	text := metrictest.Scrape(t, a.metrics.Table)
	metrictest.Shows(t, text,
		`holdfast_agent_requests_total{kind="health",result="ok"} 1`, `holdfast_agent_requests_total{kind="health",result="error"} 1`, `holdfast_agent_epochs_refused_total 1`,
		`holdfast_agent_link_failures_total{reason="blind"} 1`, `holdfast_agent_link_failures_total{reason="other"} 1`, `holdfast_agent_link_failures_total{reason="unreachable"} 1`,
		`holdfast_agent_commands{kind="copy",state="COMPLETED"} 1`, `holdfast_agent_commands_running{kind="copy"} 0`, `holdfast_agent_journal_files 1`,
		`holdfast_agent_journal_sync_duration_seconds_count 4`, `holdfast_agent_gate_open 1`, `holdfast_agent_linked 0`,
	)
	again, err := journal.Open(filepath.Join(a.opts.StateDir, journalDir), "boot-1", a.process)
	if err != nil {
		t.Fatal(err)
	}
	if sum := j.Summary(); sum.Bytes == 0 || again.Summary().Bytes != sum.Bytes || again.Summary().Files != 1 {
		t.Errorf("the journal shows %+v, and read again %+v", sum, again.Summary())
	}
}

// Away from loopback metrics are for operators of the fleet, and nothing is plaintext.
func TestMetricsAreForOperators(t *testing.T) {
	lab := pkitest.New(t)
	w, _ := securedWorker(t, lab.Issue(t, trust.Worker, "w1"))
	a := newAgent(t, func(o *Options) {
		o.Workers, o.InsecureLoopback, o.TLS, o.Logger = []string{w.address}, false, lab.Issue(t, trust.Host, "h1"), slog.New(slog.DiscardHandler)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := running(t, func(ctx context.Context) error {
		if err := a.serveMetrics(ctx, l, false); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	defer stop()
	ask := func(scheme string, certs ...tls.Certificate) (int, string) {
		client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true, Certificates: certs, // whom it is asked of is not what is tested
		}}}
		resp, err := client.Get(scheme + "://" + l.Addr().String() + "/metrics")
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0, err.Error()
		}
		return resp.StatusCode, string(text)
	}
	load := func(f trust.Files) tls.Certificate {
		c, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if code, text := ask("https", load(lab.Issue(t, trust.Operator, "prometheus"))); code != http.StatusOK || !strings.Contains(text, `holdfast_agent_certificate_expiry_timestamp_seconds{role="host"}`) {
		t.Errorf("an operator is answered with %d, %.200s", code, text)
	}
	for name, certs := range map[string][]tls.Certificate{
		"nobody": nil, "another host": {load(lab.Issue(t, trust.Host, "h2"))}, "a stranger": {load(pkitest.New(t).Issue(t, trust.Operator, "ann"))},
	} {
		if code, text := ask("https", certs...); code != http.StatusForbidden || !strings.Contains(text, "operator's certificate is needed") {
			t.Errorf("%s is answered with %d, %.200s", name, code, text)
		}
	}
	if code, text := ask("http"); code == http.StatusOK {
		t.Errorf("plaintext is answered with %.200s", text)
	}
}

// An address that cannot be meant is named; one that is taken keeps no agent from its work.
func TestListenMetrics(t *testing.T) {
	for address, want := range map[string]string{
		"9101": `listenMetrics: "9101": want host:port`, "10.0.0.1:9101": `listenMetrics: "10.0.0.1:9101": without TLS only loopback`, ":9101": "without TLS only loopback",
	} {
		o := Options{Host: "h1", Workers: []string{"127.0.0.1:1"}, StateDir: t.TempDir(), Hypervisor: &fakeHost{}, InsecureLoopback: true, ListenMetrics: address}
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", address, err, want)
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	w := startWorker(t, welcome(nil))
	linkedTo(t, func(o *Options) { o.ListenMetrics = taken.Addr().String() }, w.address)
	expect(t, w, "ping", ping)
}
