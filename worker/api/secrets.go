// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

func getSecret(c *call) error {
	if done, err := c.askOwner(c.id(), nil, readForward, true); done || err != nil {
		return err
	}
	s, err := c.b.Secret(c.ctx(), c.id(), c.r.PathValue("device"))
	if err != nil {
		return err
	}
	return c.replyAt(s.Revision, s)
}

// secretBody reads a SecretRequest and the bytes it came in. Unlike body it never
// repeats what was sent, not even a character.
func (c *call) secretBody() (r v1.SecretRequest, raw []byte, err error) {
	raw, err = io.ReadAll(c.r.Body)
	if err != nil {
		clear(raw)
		return r, nil, fmt.Errorf("read request body: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err = d.Decode(&r); err == nil {
		if _, end := d.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("more than one value")
		}
	}
	if err != nil {
		clear(raw)
		r.Password.Clear()
		return v1.SecretRequest{}, nil, v1.BadField("body", "not the JSON expected, allowed is one object with user, password, noTest")
	}
	return r, raw, nil
}

// putSecret stores new credentials. A test is the host's owner's alone: it keeps the one
// session that the device is given at a time.
func putSecret(c *call) error {
	r, raw, err := c.secretBody()
	if err != nil {
		return err
	}
	defer clear(raw)
	defer r.Password.Clear()
	rev, err := c.ifRevision()
	if err != nil {
		return err
	}
	if done, err := c.askOwner(c.id(), raw, testForward, r.NoTest); done || err != nil {
		return err
	}
	s, err := c.b.PutSecret(c.ctx(), c.who, c.id(), c.r.PathValue("device"), r, rev)
	if err != nil {
		return err
	}
	for _, w := range c.keyless(s.Key) {
		s.Warnings = append(s.Warnings, w+": it could not use this secret if it had to")
	}
	return c.replyAt(s.Revision, s)
}

func deleteSecret(c *call) error {
	rev, err := c.ifRevision()
	if err != nil {
		return err
	}
	if err := c.b.DeleteSecret(c.ctx(), c.who, c.id(), c.r.PathValue("device"), rev); err != nil {
		return err
	}
	return c.done()
}

func listSecrets(c *call) error {
	s, err := c.b.Secrets(c.ctx())
	if err != nil {
		return err
	}
	return page(c, s, func(s v1.SecretStatus) string { return s.Host + "\x00" + s.Device }, false)
}

// keyless says of each other worker that does not have a key, or does not tell.
func (c *call) keyless(key string) (out []string) {
	ws, err := c.b.Workers(c.ctx())
	if err != nil {
		return []string{fmt.Sprintf("workers: %v", err)}
	}
	c.askWorkers(ws)
	for _, w := range ws {
		switch {
		case w.Boot == "": // drained and not running
		case w.Answers != v1.AnswersYes:
			out = append(out, fmt.Sprintf("worker %s does not answer, it may lack key %s", w.ID, key))
		case !slices.Contains(w.Keys, key):
			out = append(out, fmt.Sprintf("worker %s does not have key %s", w.ID, key))
		}
	}
	return out
}

// resealSecrets seals anew, only under a key that everybody has.
func resealSecrets(c *call) error {
	var r v1.ResealRequest
	if err := c.body(&r); err != nil {
		return err
	}
	if r.Limit == 0 {
		r.Limit = 100
	}
	if r.Limit < 1 || r.Limit > 500 {
		return v1.BadField("limit", "%d, allowed are 1 to 500", r.Limit)
	}
	look, _ := WithTrial(c.ctx())
	plan, err := c.b.Reseal(look, c.who, r.Limit)
	if err != nil {
		return err
	}
	if bad := c.keyless(plan.Key); len(bad) > 0 && !r.Force {
		return v1.Problemf(v1.CodeRefused, "reseal under key %s: %s", plan.Key, strings.Join(bad, "; ")).
			WithHint("give every worker the key first, as any but the first of its ring; forced, hosts that move to such a worker cannot be fenced")
	}
	if c.dry {
		return c.reply(plan)
	}
	res, err := c.b.Reseal(c.ctx(), c.who, r.Limit)
	if err != nil {
		return err
	}
	return c.reply(res)
}
