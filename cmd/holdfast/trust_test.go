// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/worker/api"
	"github.com/holdfast-ha/holdfast/worker/pki"
	"github.com/holdfast-ha/holdfast/worker/pki/pkitest"
)

// secureFleet puts the fleet of a script behind a worker's certificate, and sets what
// trust.txtar needs: certificates of this fleet and of a foreign one, and the addresses
// of a worker whose certificate is for elsewhere and of one that speaks no TLS. All is
// made for the time of the scripts.
func secureFleet(t *testing.T, ts *testscript.TestScript) {
	at := func(d time.Duration) func(*pki.Options) {
		return func(o *pki.Options) { o.Now = cliNow().Add(d) }
	}
	lab, foreign := pkitest.NewAt(t, cliNow().Add(-100*time.Hour)), pkitest.NewAt(t, cliNow().Add(-100*time.Hour))
	lab.Issue(t, trust.Operator, "ann", at(0))
	lab.Issue(t, trust.Operator, "old", at(-48*time.Hour), func(o *pki.Options) { o.For = 24 * time.Hour })
	lab.Issue(t, trust.Operator, "early", at(24*time.Hour))
	lab.Issue(t, trust.Host, "h-1", at(0))
	foreign.Issue(t, trust.Operator, "ann", at(0))
	nameless := foreign.Elsewhere(t, "w9", at(0))

	serve := func(files trust.Files) string {
		src, err := trust.Open(trust.Config{Files: files, Fields: trust.Files{CA: "ca", Cert: "cert", Key: "key"}, Now: cliNow})
		ts.Check(err)
		s := httptest.NewUnstartedServer(api.NewHandler(ts.Value("script").(*script).fleet, api.HandlerOptions{Version: "1.2", Trust: src}))
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.Listener = tls.NewListener(s.Listener, src.Desk("http/1.1"))
		s.Start()
		ts.Defer(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	}
	address := serve(lab.Issue(t, trust.Worker, "w1", at(0)))
	for k, v := range map[string]string{
		"ADDRESS": address, "ENDPOINT": "https://" + address, "NAMELESS": "https://" + serve(nameless), "PLAIN": strings.TrimPrefix(ts.Getenv("ENDPOINT"), "http://"),
		"LAB": lab.Dir, "FOREIGN": foreign.Dir, "BOTH": lab.Bundle(t, foreign),
	} {
		ts.Setenv(k, v)
	}
}
