"""Our mapping from the subjects of MMLU and CMMLU to the topics of the recipe's default lists.

The paper does not print one. A subject that spans two topics is assigned to the topic of most of its questions:
`security_studies` (states and war) is not `computer_security` (Computer Science), `nutrition` is health,
`management` and `public_relations` are business. The Chinese list has a topic for projects and everyday practice,
which contains the tests for drivers, civil servants and builders.
"""

MMLU: dict[str, str] = {
    subject: topic
    for topic, subjects in {
        "Mathematics and Physics": (
            "abstract_algebra astronomy college_mathematics college_physics conceptual_physics elementary_mathematics "
            "high_school_mathematics high_school_physics high_school_statistics"
        ),
        "Computer Science and Engineering": (
            "college_computer_science computer_security electrical_engineering high_school_computer_science "
            "machine_learning"
        ),
        "Biology and Chemistry": "college_biology college_chemistry high_school_biology high_school_chemistry",
        "History and Geography": (
            "high_school_european_history high_school_geography high_school_us_history high_school_world_history "
            "prehistory"
        ),
        "Law and Policy": "high_school_government_and_politics international_law jurisprudence professional_law",
        "Philosophy and Logic": (
            "formal_logic logical_fallacies moral_disputes moral_scenarios philosophy world_religions"
        ),
        "Economics and Business": (
            "business_ethics econometrics high_school_macroeconomics high_school_microeconomics management marketing "
            "professional_accounting public_relations"
        ),
        "Psychology and Sociology": "high_school_psychology human_sexuality professional_psychology sociology",
        "Security and International Relations": "security_studies us_foreign_policy",
        "Medicine and Health": (
            "anatomy clinical_knowledge college_medicine human_aging medical_genetics nutrition professional_medicine "
            "virology"
        ),
        "Others": "global_facts miscellaneous",
    }.items()
    for subject in subjects.split()
}
"""Topics of the English list for the 57 subjects of MMLU."""

CMMLU: dict[str, str] = {
    subject: topic
    for topic, subjects in {
        "Mathematics and Physics": (
            "astronomy college_actuarial_science college_mathematics conceptual_physics elementary_mathematics "
            "high_school_mathematics high_school_physics"
        ),
        "Computer Science and Engineering": (
            "college_engineering_hydrology computer_science computer_security electrical_engineering "
            "elementary_information_and_technology machine_learning"
        ),
        "Biology and Chemistry": "agronomy food_science genetics high_school_biology high_school_chemistry",
        "History and Geography": "chinese_history ethnology high_school_geography world_history",
        "Law and Policy": (
            "chinese_foreign_policy college_law high_school_politics international_law jurisprudence "
            "legal_and_moral_basis marxist_theory professional_law security_study"
        ),
        "Philosophy, Arts and Culture": (
            "ancient_chinese arts chinese_food_culture chinese_literature elementary_chinese logical modern_chinese "
            "philosophy world_religions"
        ),
        "Economics and Business": (
            "business_ethics economics management marketing professional_accounting public_relations"
        ),
        "Psychology, Sociology and Education": (
            "chinese_teacher_qualification college_education education human_sexuality journalism "
            "professional_psychology sociology"
        ),
        "Project and Practical Management": (
            "chinese_civil_service_exam chinese_driving_rule construction_project_management"
        ),
        "Medicine and Health": (
            "anatomy clinical_knowledge college_medical_statistics college_medicine nutrition professional_medicine "
            "sports_science traditional_chinese_medicine virology"
        ),
        "Others": "elementary_commonsense global_facts",
    }.items()
    for subject in subjects.split()
}
"""Topics of the Chinese list for the 67 subjects of CMMLU."""
