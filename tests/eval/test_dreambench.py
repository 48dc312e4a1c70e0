from eval.dreambench import SUBJECTS, is_live, prompts


def test_thirty_subjects_with_twenty_five_prompts_each():
    assert len(SUBJECTS) == 30
    live = [name for name, cls in SUBJECTS.items() if is_live(cls)]
    assert sorted(live) == ["cat", "cat2", "dog", "dog2", "dog3", "dog5", "dog6", "dog7", "dog8"]
    for cls in SUBJECTS.values():
        listed = prompts(is_live(cls))
        assert [prompt.number for prompt in listed] == list(range(1, 26))
        assert len({prompt.form for prompt in listed}) == 25
        groups = [prompt.group for prompt in listed]
        assert groups.count("property") == 5
        assert groups.count("recontextualization") == (10 if is_live(cls) else 20)


def test_prompts_are_worded_as_in_the_data_set():
    assert prompts(True)[10].text("sks dog") == "a sks dog wearing a red hat"
    assert prompts(False)[10].text("vase") == "a vase with a wheat field in the background"
    assert prompts(False)[24].text("sks vase") == "a cube shaped sks vase"


def test_the_starters_share_is_what_its_world_knows():
    assert len(prompts(False, starter=True)) == 20
    assert len(prompts(True, starter=True)) == 12
    assert {prompt.number for prompt in prompts(True, starter=True)} <= {prompt.number for prompt in prompts(True)}
