// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
)

const maxTexts = 8 // messages of an error answer that are looked at

// system is what matters of a ComputerSystem resource.
type system struct {
	uuid, serial string
	state        string // PowerState as it stands there; "" when absent or null
	target       string // link of the reset action
	allowed      []string
	info         string // link of the action's description, when it has the allowed values
	lamp         string // property that switches the lamp, "" for none
	etag         string
}

// object splits a JSON object into its members. The standard library would take the
// last of two equal names, and names in any case; a reading must not depend on which.
func object(b []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("the body is not a JSON object")
	}
	out := map[string]json.RawMessage{}
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		var v json.RawMessage
		if err != nil || !ok || dec.Decode(&v) != nil {
			return nil, errors.New("the body is broken JSON")
		}
		if _, twice := out[name]; twice {
			return nil, errors.New("the body has a member twice")
		}
		out[name] = v
	}
	if _, err := dec.Token(); err != nil {
		return nil, errors.New("the body is broken JSON")
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("the body goes on after its end")
	}
	return out, nil
}

// text reads a member that is a string; absent and null are "".
func text(members map[string]json.RawMessage, name string) (string, error) {
	raw, ok := members[name]
	if !ok || string(raw) == "null" {
		return "", nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", fmt.Errorf("%s is not a string", name)
	}
	return s, nil
}

// parseSystem reads a ComputerSystem (DSP0268). Only what power needs must be right.
func parseSystem(b []byte) (system, error) {
	top, err := object(b)
	if err != nil {
		return system{}, err
	}
	var s system
	for name, to := range map[string]*string{"UUID": &s.uuid, "SerialNumber": &s.serial, "PowerState": &s.state} {
		if *to, err = text(top, name); err != nil {
			return system{}, err
		}
	}
	s.uuid, s.serial = uuid(s.uuid), strings.TrimSpace(s.serial)
	for _, name := range []string{"IndicatorLED", "LocationIndicatorActive"} {
		if raw, ok := top[name]; ok && string(raw) != "null" {
			s.lamp = name
		}
	}
	actions, ok := top["Actions"]
	if !ok {
		return s, nil
	}
	all, err := object(actions)
	if err != nil {
		return system{}, fmt.Errorf("read Actions: %w", err)
	}
	if all["#ComputerSystem.Reset"] == nil {
		return s, nil
	}
	reset, err := object(all["#ComputerSystem.Reset"])
	if err != nil {
		return system{}, fmt.Errorf("reset action: %w", err)
	}
	if s.target, err = text(reset, "target"); err != nil {
		return system{}, err
	}
	if s.info, err = text(reset, "@Redfish.ActionInfo"); err != nil {
		return system{}, err
	}
	if raw, ok := reset["ResetType@Redfish.AllowableValues"]; ok && json.Unmarshal(raw, &s.allowed) != nil {
		return system{}, errors.New("the allowable reset types are not a list of strings")
	}
	return s, nil
}

// uuid brings a UUID into the form IPMI's is printed in; those that name nothing are "".
func uuid(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	if strings.Trim(s, "0-") == "" || strings.Trim(s, "f-") == "" {
		return ""
	}
	return s
}

// power says what the PowerState means. Whatever is not certainly On or Off, or on its
// way between them, is an error: Unknown, never Off.
func (s system) power() (state corepower.State, moving bool, err error) {
	switch s.state {
	case "On":
		return corepower.On, false, nil
	case "Off":
		return corepower.Off, false, nil
	case "PoweringOn", "PoweringOff":
		return corepower.On, true, nil
	case "":
		return corepower.Unknown, false, errors.New("the system has no power state")
	}
	return corepower.Unknown, false, fmt.Errorf("power state %q is neither On nor Off", s.state)
}

// parseInfo reads the reset types an ActionInfo allows.
func parseInfo(b []byte) ([]string, error) {
	var info struct {
		Parameters []struct {
			Name            string
			AllowableValues []string
		}
	}
	if err := json.Unmarshal(b, &info); err != nil {
		return nil, errors.New("the description of the reset action is broken JSON")
	}
	for _, p := range info.Parameters {
		if p.Name == "ResetType" {
			return p.AllowableValues, nil
		}
	}
	return nil, nil
}

// parseTask reads the state of a task; "" when the body is none.
func parseTask(b []byte) string {
	var t struct{ TaskState string }
	if json.Unmarshal(b, &t) != nil {
		return ""
	}
	return t.TaskState
}

// failure is what an error answer says: message ids and texts for classification, and
// one line for people, not yet redacted.
type failure struct {
	ids, texts string // lower case
	line       string
}

// says reports whether an id or text contains one of the words.
func (f failure) says(words ...string) bool {
	for _, w := range words {
		if strings.Contains(f.ids, w) || strings.Contains(f.texts, w) {
			return true
		}
	}
	return false
}

// parseFailure reads the error of DSP0266 §8.6; a body that is none says nothing.
func parseFailure(b []byte) failure {
	type message struct{ MessageId, Message string }
	var e struct {
		Error struct {
			Code, Message string
			Info          []message `json:"@Message.ExtendedInfo"`
		}
	}
	if json.Unmarshal(b, &e) != nil {
		return failure{}
	}
	all := append([]message{{e.Error.Code, e.Error.Message}}, e.Error.Info...)
	var f failure
	for _, m := range all[:min(len(all), maxTexts)] {
		f.ids += " " + strings.ToLower(m.MessageId)
		f.texts += " " + strings.ToLower(m.Message)
		if m.Message != "" {
			f.line = m.Message // the later ones say more
		}
	}
	return f
}
