// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb/frame"
	"github.com/holdfast-ha/holdfast/agent/trust"
)

// trustEvery is how often an agent looks at its certificate between handshakes, which
// may be months apart.
const trustEvery = time.Minute

// openTrust reads this host's certificate.
func openTrust(o Options) (*trust.Source, error) {
	return trust.Open(trust.Config{
		Files: o.TLS, Fields: trust.Files{CA: "tls.ca", Cert: "tls.cert", Key: "tls.key"},
		Want: trust.Identity{Role: trust.Host, ID: o.Host}, Logger: o.Logger.With("host", o.Host),
	})
}

// secure is how a link to the worker at this address is secured, which must show a worker's
// certificate for it; nil: by being on this machine.
func (a *Agent) secure(address string) (*tls.Config, error) {
	certs := a.trust.Load()
	if certs == nil {
		if !a.opts.InsecureLoopback {
			return nil, errors.New("this host has no certificate yet")
		}
		return nil, nil
	}
	host, err := splitAddress(address)
	if err != nil {
		return nil, err
	}
	conf := certs.Dialer(trust.Peer{Role: trust.Worker, Name: host})
	conf.ServerName, conf.NextProtos = host, []string{frame.Protocol}
	return conf, nil
}

var errOtherProtocol = fmt.Errorf("the other side does not speak %s: it is no worker, or one of another version", frame.Protocol)

// otherProtocol finds a peer's word, as crypto/tls has it, that it does not speak ours.
func otherProtocol(err error) error {
	if strings.Contains(err.Error(), "remote error: "+tls.AlertError(120).Error()) {
		return errOtherProtocol
	}
	return err
}

// explain puts into words that the worker has refused our certificate.
func (a *Agent) explain(end ending) ending {
	if certs := a.trust.Load(); certs != nil {
		end.err = certs.Explain(end.err)
	}
	return end
}

// trustLoop says in time that this host's certificate is not renewed. The link that is up
// stays; the next one would be refused.
func (a *Agent) trustLoop(ctx context.Context) error {
	if a.opts.InsecureLoopback || !a.enrolled(ctx) {
		return nil
	}
	for said := ""; ; {
		c, now := a.trust.Load().State(), time.Now()
		say := ""
		switch {
		case now.After(c.NotAfter):
			say = "has expired, workers refuse this host"
		case c.Expiring(now):
			say = "ends soon and was not renewed yet"
		}
		if say != "" && say != said {
			a.opts.Logger.Warn("certificate needs renewal", "cause", fmt.Sprintf("the certificate %s", say), "until", c.NotAfter.UTC(), "file", a.opts.TLS.Cert) // empty: its own
		}
		said = say
		if !sleep(ctx, trustEvery) {
			return nil
		}
	}
}
